// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
/*
 * A simulated I2C adapter of a simulated host. i2c-stub knows SMBus commands only; this one takes plain messages, and
 * tells how they came.
 *
 *   0x51             an EEPROM of 256 bytes, addressed by one byte
 *   0x151, ten bits  another one
 *   0x52             a third one that takes slow_ms for each transfer
 *   others           do not acknowledge
 *
 * In /sys/module/lab_i2c/parameters: `slow_ms`; `transfers` and `messages`, counters; and `log`, one line for each of
 * the last transfers, such as "51w1 51r4": the address in hexadecimal, the direction, the bytes. Messages on one line
 * came as one transfer, with repeated start conditions. Writing to `log` empties it. A test looks into the EEPROM at
 * 0x51 by `eeprom`, its first 16 bytes in hexadecimal.
 *
 * It is a platform device, so that `unbind` takes it away from whoever uses it.
 */
#include <linux/delay.h>
#include <linux/i2c.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/platform_device.h>

#define NAME "lab_i2c"
#define SHOWN 16

struct eeprom {
	u16 address;
	u16 flags;
	u8 pointer;
	u8 bytes[256];
};

enum { PLAIN, TEN_BITS, SLOW };

static struct eeprom eeproms[] = {
	[PLAIN] = { .address = 0x51 },
	[TEN_BITS] = { .address = 0x151, .flags = I2C_M_TEN },
	[SLOW] = { .address = 0x52 },
};

static unsigned int slow_ms;
module_param(slow_ms, uint, 0644);
static unsigned int transfers;
module_param(transfers, uint, 0644);
static unsigned int messages;
module_param(messages, uint, 0644);

/* Guards the log and the EEPROMs: a file of sysfs holds less than a page. */
static DEFINE_MUTEX(lock);
static char text[PAGE_SIZE - 64];
static size_t used;

static int log_get(char *buffer, const struct kernel_param *param)
{
	guard(mutex)(&lock);
	return scnprintf(buffer, PAGE_SIZE, "%.*s", (int)used, text);
}

static int log_set(const char *value, const struct kernel_param *param)
{
	guard(mutex)(&lock);
	used = 0;
	return 0;
}

static const struct kernel_param_ops log_ops = { .get = log_get, .set = log_set };
module_param_cb(log, &log_ops, NULL, 0644);

static int eeprom_get(char *buffer, const struct kernel_param *param)
{
	guard(mutex)(&lock);
	return scnprintf(buffer, PAGE_SIZE, "%*phN\n", SHOWN, eeproms[PLAIN].bytes);
}

static const struct kernel_param_ops eeprom_ops = { .get = eeprom_get };
module_param_cb(eeprom, &eeprom_ops, NULL, 0444);

static void note(const struct i2c_msg *msgs, int num)
{
	int i;

	/* The oldest lines go when there is no room for a long one. */
	while (used > sizeof(text) - 64 * 12) {
		char *end = memchr(text, '\n', used);
		size_t cut = end ? end + 1 - text : used;

		used -= cut;
		memmove(text, text + cut, used);
	}
	for (i = 0; i < num; i++)
		used += scnprintf(text + used, sizeof(text) - used, "%02x%c%u%c", msgs[i].addr,
				  msgs[i].flags & I2C_M_RD ? 'r' : 'w', msgs[i].len, i + 1 < num ? ' ' : '\n');
}

static struct eeprom *find(const struct i2c_msg *msg)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(eeproms); i++)
		if (msg->addr == eeproms[i].address && (msg->flags & I2C_M_TEN) == eeproms[i].flags)
			return &eeproms[i];
	return NULL;
}

static void serve(struct eeprom *eeprom, const struct i2c_msg *msg)
{
	unsigned int i;

	if (msg->flags & I2C_M_RD) {
		for (i = 0; i < msg->len; i++)
			msg->buf[i] = eeprom->bytes[eeprom->pointer++];
		return;
	}
	for (i = 0; i < msg->len; i++) {
		if (i == 0)
			eeprom->pointer = msg->buf[0];
		else
			eeprom->bytes[eeprom->pointer++] = msg->buf[i];
	}
}

/* Messages before one that is not acknowledged have had their effect, as on a wire. */
static int transfer(struct i2c_adapter *adapter, struct i2c_msg *msgs, int num)
{
	int i;

	for (i = 0; i < num; i++)
		if (find(&msgs[i]) == &eeproms[SLOW]) {
			msleep(slow_ms);
			break;
		}
	guard(mutex)(&lock);
	transfers++;
	messages += num;
	note(msgs, num);
	for (i = 0; i < num; i++) {
		struct eeprom *eeprom = find(&msgs[i]);

		if (!eeprom)
			return -ENXIO;
		serve(eeprom, &msgs[i]);
	}
	return num;
}

static u32 functionality(struct i2c_adapter *adapter)
{
	return I2C_FUNC_I2C | I2C_FUNC_10BIT_ADDR | I2C_FUNC_SMBUS_EMUL;
}

static const struct i2c_algorithm algorithm = { .xfer = transfer, .functionality = functionality };

static int probe(struct platform_device *device)
{
	struct i2c_adapter *adapter = devm_kzalloc(&device->dev, sizeof(*adapter), GFP_KERNEL);

	if (!adapter)
		return -ENOMEM;
	adapter->owner = THIS_MODULE;
	adapter->algo = &algorithm;
	adapter->dev.parent = &device->dev;
	strscpy(adapter->name, NAME, sizeof(adapter->name));
	/* Removal waits until nobody has the adapter open. */
	return devm_i2c_add_adapter(&device->dev, adapter);
}

static struct platform_driver driver = { .driver.name = NAME, .probe = probe };
static struct platform_device *device;

static int __init lab_i2c_init(void)
{
	int error = platform_driver_register(&driver);

	if (error)
		return error;
	device = platform_device_register_simple(NAME, PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(device)) {
		platform_driver_unregister(&driver);
		return PTR_ERR(device);
	}
	return 0;
}

static void __exit lab_i2c_exit(void)
{
	platform_device_unregister(device);
	platform_driver_unregister(&driver);
}

module_init(lab_i2c_init);
module_exit(lab_i2c_exit);
MODULE_DESCRIPTION("A simulated I2C adapter that takes plain messages and tells how they came");
MODULE_LICENSE("Dual BSD/GPL");
