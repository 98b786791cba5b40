// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
/*
 * Takes the interrupt of a gpio line, as user space cannot: that of its high level, or of both edges with `edges=1`. The
 * line is masked for `pause_ms` each time. In /sys/module/lab_irq/parameters, `count` tells how often it came, and
 * `level` what the line was when it came last.
 *
 * Nobody makes the line inactive here, so that of the level comes again for as long as the line is high.
 */
#include <linux/delay.h>
#include <linux/gpio/consumer.h>
#include <linux/gpio/driver.h>
#include <linux/gpio/machine.h>
#include <linux/interrupt.h>
#include <linux/module.h>

#define NAME "lab_irq"

static char *chip = "virtio0";
module_param(chip, charp, 0444);
MODULE_PARM_DESC(chip, "label of the chip");
static unsigned int line;
module_param(line, uint, 0444);
static bool edges;
module_param(edges, bool, 0444);
static unsigned int pause_ms = 5;
module_param(pause_ms, uint, 0444);
static int level = -1;
module_param(level, int, 0444);
static unsigned int count;
module_param(count, uint, 0444);

static struct gpio_device *device;
static struct gpio_desc *desc;
static int irq;

static irqreturn_t handle(int number, void *data)
{
	level = gpiod_get_value_cansleep(desc);
	count++;
	msleep(pause_ms);
	return IRQ_HANDLED;
}

static int take(void)
{
	unsigned long trigger = edges ? IRQF_TRIGGER_RISING | IRQF_TRIGGER_FALLING : IRQF_TRIGGER_HIGH;

	irq = gpiod_to_irq(desc);
	if (irq < 0)
		return irq;
	return request_threaded_irq(irq, NULL, handle, trigger | IRQF_ONESHOT, NAME, &count);
}

static int __init lab_irq_init(void)
{
	int error;

	device = gpio_device_find_by_label(chip);
	if (!device)
		return -ENODEV;
	desc = gpiochip_request_own_desc(gpio_device_get_chip(device), line, NAME, GPIO_LOOKUP_FLAGS_DEFAULT, GPIOD_IN);
	error = PTR_ERR_OR_ZERO(desc);
	if (error)
		goto put;
	error = take();
	if (!error)
		return 0;
	gpiochip_free_own_desc(desc);
put:
	gpio_device_put(device);
	return error;
}

static void __exit lab_irq_exit(void)
{
	free_irq(irq, &count);
	gpiochip_free_own_desc(desc);
	gpio_device_put(device);
}

module_init(lab_irq_init);
module_exit(lab_irq_exit);
MODULE_DESCRIPTION("Takes the interrupt of a gpio line");
MODULE_LICENSE("Dual BSD/GPL");
