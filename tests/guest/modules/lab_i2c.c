// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
/*
 * An I2C adapter with made-up devices, for hosts that have none: one that does plain I2C, which i2c-stub does not.
 *
 * 0x51        an EEPROM of 256 bytes: the first byte written is the address, reads go on from there
 * t0x151      the same EEPROM at a ten-bit address
 * 0x52        takes "slow_ms" for each message
 * all others  do not acknowledge
 *
 * It is a platform driver: unbinding its device removes the adapter. The parameters "transfers" and "messages" count what
 * reached it.
 */
#include <linux/delay.h>
#include <linux/i2c.h>
#include <linux/module.h>
#include <linux/platform_device.h>

static uint slow_ms = 100;
module_param(slow_ms, uint, 0644);
static uint transfers;
module_param(transfers, uint, 0644);
static uint messages;
module_param(messages, uint, 0644);

static u8 memory[256];
static u8 pointer;

static int one(struct i2c_msg *msg)
{
	bool ten = msg->flags & I2C_M_TEN;
	int i = 0;

	if (!ten && msg->addr == 0x52) {
		msleep(slow_ms);
		return 0;
	}
	if (msg->addr != (ten ? 0x151 : 0x51))
		return -ENXIO;
	if (msg->flags & I2C_M_RD) {
		for (; i < msg->len; i++)
			msg->buf[i] = memory[pointer++];
		return 0;
	}
	if (msg->len)
		pointer = msg->buf[i++];
	for (; i < msg->len; i++)
		memory[pointer++] = msg->buf[i];
	return 0;
}

static int lab_xfer(struct i2c_adapter *adapter, struct i2c_msg *msgs, int num)
{
	int i, err;

	transfers++;
	for (i = 0; i < num; i++) {
		messages++;
		err = one(&msgs[i]);
		if (err)
			return err;
	}
	return num;
}

static u32 lab_functionality(struct i2c_adapter *adapter)
{
	return I2C_FUNC_I2C | I2C_FUNC_10BIT_ADDR | I2C_FUNC_SMBUS_EMUL;
}

static const struct i2c_algorithm lab_algorithm = {
	.master_xfer = lab_xfer,
	.functionality = lab_functionality,
};

static struct i2c_adapter lab_adapter = {
	.owner = THIS_MODULE,
	.name = "lab-i2c",
	.algo = &lab_algorithm,
};

static int lab_probe(struct platform_device *device)
{
	lab_adapter.dev.parent = &device->dev;
	return i2c_add_adapter(&lab_adapter);
}

static void lab_remove(struct platform_device *device)
{
	i2c_del_adapter(&lab_adapter);
}

static struct platform_driver lab_driver = {
	.probe = lab_probe,
	.remove = lab_remove,
	.driver = { .name = "lab-i2c" },
};

static struct platform_device *lab_device;

static int __init lab_init(void)
{
	int err = platform_driver_register(&lab_driver);

	if (err)
		return err;
	lab_device = platform_device_register_simple("lab-i2c", 0, NULL, 0);
	if (IS_ERR(lab_device)) {
		platform_driver_unregister(&lab_driver);
		return PTR_ERR(lab_device);
	}
	return 0;
}
module_init(lab_init);

static void __exit lab_exit(void)
{
	platform_device_unregister(lab_device);
	platform_driver_unregister(&lab_driver);
}
module_exit(lab_exit);

MODULE_DESCRIPTION("I2C adapter with made-up devices");
MODULE_LICENSE("Dual BSD/GPL");
