// SPDX-License-Identifier: GPL-2.0
/*
 * Control queue: commands to the device and their replies.
 *
 * A command lives in one allocation of its own, never on a stack, because the
 * device may write the reply long after its sender gave up. Such a command
 * stays in the queue until its reply comes or the device was reset.
 */
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "vnic.h"

struct vnic_cmd {
	struct list_head node;
	struct completion done;
	bool replied;		/* under vnic_ctrlq::lock */
	bool abandoned;		/* likewise: nobody waits, free when replied */
	u32 used;		/* bytes that the device wrote */
	__le64 *list;		/* page list that the command points to */
	size_t out_len;
	size_t in_len;
	u8 *in;
	u8 out[] __aligned(8);
};

static int vnic_status_to_errno(u32 status)
{
	switch (status) {
	case VNIC_STATUS_OK:
		return 0;
	case VNIC_STATUS_BAD_HANDLE:
	case VNIC_STATUS_BAD_STATE:
	case VNIC_STATUS_BAD_SIZE:
	case VNIC_STATUS_BAD_ATTRIBUTE:
		return -EINVAL;
	case VNIC_STATUS_LIMIT:
		return -ENOMEM;
	case VNIC_STATUS_BAD_ADDRESS:
		return -EFAULT;
	case VNIC_STATUS_BUSY:
		return -EBUSY;
	case VNIC_STATUS_UNSUPPORTED:
	case VNIC_STATUS_UNKNOWN_COMMAND:
		return -EOPNOTSUPP;
	case VNIC_STATUS_EXISTS:
		return -EEXIST;
	default:
		return -EPROTO;
	}
}

struct vnic_cmd *vnic_cmd_alloc(size_t body_len, size_t reply_len, gfp_t gfp)
{
	size_t out_len = sizeof(struct vnic_cmd_header) + body_len;
	size_t in_len = sizeof(struct vnic_reply_header) + reply_len;
	struct vnic_cmd *cmd;

	cmd = kzalloc(sizeof(*cmd) + ALIGN(out_len, 8) + in_len, gfp);
	if (!cmd)
		return NULL;
	INIT_LIST_HEAD(&cmd->node);
	init_completion(&cmd->done);
	cmd->out_len = out_len;
	cmd->in_len = in_len;
	cmd->in = cmd->out + ALIGN(out_len, 8);
	return cmd;
}

void vnic_cmd_free(struct vnic_cmd *cmd)
{
	if (!cmd)
		return;
	kfree(cmd->list);
	kfree(cmd);
}

/* Gives the command to the device; waits while the queue is full. */
static int vnic_cmd_submit(struct vnic_dev *dev, struct vnic_cmd *cmd,
			   bool wait)
{
	struct scatterlist out, in, *sgs[] = { &out, &in };
	struct vnic_ctrlq *q = &dev->ctrl;
	unsigned long flags, seen;
	bool notify;
	int err;

	sg_init_one(&out, cmd->out, cmd->out_len);
	sg_init_one(&in, cmd->in, cmd->in_len);

	for (;;) {
		spin_lock_irqsave(&q->lock, flags);
		if (test_bit(VNIC_CLOSED, &dev->flags) ||
		    (wait && vnic_dead(dev))) {
			spin_unlock_irqrestore(&q->lock, flags);
			return -EIO;
		}
		err = virtqueue_add_sgs(q->vq, sgs, 1, 1, cmd, GFP_ATOMIC);
		if (!err)
			break;
		seen = q->completed;
		spin_unlock_irqrestore(&q->lock, flags);

		if (!wait)
			return -EIO;
		if (err != -ENOSPC && err != -ENOMEM) {
			vnic_kill(dev, "its control queue is broken");
			return -EIO;
		}
		if (!wait_event_timeout(q->space,
					READ_ONCE(q->completed) != seen ||
					vnic_dead(dev), VNIC_CMD_TIMEOUT))
			vnic_kill(dev, "its control queue stays full");
	}
	list_add_tail(&cmd->node, &q->pending);
	notify = virtqueue_kick_prepare(q->vq);
	spin_unlock_irqrestore(&q->lock, flags);
	if (notify)
		virtqueue_notify(q->vq);
	return 0;
}

/*
 * Runs a command and frees it, or leaves it to the device. The lengths of
 * body and reply are those that the command was allocated for.
 */
int vnic_cmd_run(struct vnic_dev *dev, struct vnic_cmd *cmd, u32 opcode,
		 const void *body, void *reply)
{
	struct vnic_cmd_header *head = (void *)cmd->out;
	const struct vnic_reply_header *answer = (const void *)cmd->in;
	size_t body_len = cmd->out_len - sizeof(*head);
	size_t reply_len = cmd->in_len - sizeof(*answer);
	struct vnic_ctrlq *q = &dev->ctrl;
	unsigned long flags;
	int err;

	head->opcode = cpu_to_le32(opcode);
	if (body_len)
		memcpy(head + 1, body, body_len);

	err = vnic_cmd_submit(dev, cmd, true);
	if (err) {
		vnic_cmd_free(cmd);
		return err;
	}

	/* Not interruptible: half a command is of no use to anybody. */
	wait_for_completion_timeout(&cmd->done, VNIC_CMD_TIMEOUT);

	spin_lock_irqsave(&q->lock, flags);
	if (!cmd->replied) {
		cmd->abandoned = true;
		spin_unlock_irqrestore(&q->lock, flags);
		vnic_kill(dev, "it did not answer a control command");
		return -ETIMEDOUT;
	}
	spin_unlock_irqrestore(&q->lock, flags);

	if (cmd->used < sizeof(*answer))
		err = -EPROTO;
	else
		err = vnic_status_to_errno(le32_to_cpu(answer->status));
	if (!err && cmd->used < cmd->in_len)
		err = -EPROTO;
	if (!err && reply_len)
		memcpy(reply, answer + 1, reply_len);
	if (err == -EPROTO)
		dev_warn_ratelimited(&dev->vdev->dev,
				     "command %u: malformed exchange, %u bytes, status %u\n",
				     opcode, cmd->used,
				     le32_to_cpu(answer->status));
	vnic_cmd_free(cmd);
	return err;
}

/* Sends a command that names handle 0 and waits for nothing. */
void vnic_cmd_post(struct vnic_dev *dev, u32 opcode)
{
	struct vnic_cmd_header *head;
	struct vnic_cmd *cmd;

	cmd = vnic_cmd_alloc(sizeof(struct vnic_cmd_handle), 0, GFP_KERNEL);
	if (!cmd)
		return;
	head = (void *)cmd->out;
	head->opcode = cpu_to_le32(opcode);
	cmd->abandoned = true;
	if (vnic_cmd_submit(dev, cmd, false))
		vnic_cmd_free(cmd);
}

int vnic_cmd_list(struct vnic_dev *dev, u32 opcode, const void *body,
		  size_t body_len, void *reply, size_t reply_len,
		  __le64 *list)
{
	struct vnic_cmd *cmd;

	/* Small, and an object must not survive for want of 100 bytes. */
	cmd = vnic_cmd_alloc(body_len, reply_len, GFP_KERNEL | __GFP_NOFAIL);
	cmd->list = list;
	return vnic_cmd_run(dev, cmd, opcode, body, reply);
}

int vnic_cmd(struct vnic_dev *dev, u32 opcode, const void *body,
	     size_t body_len, void *reply, size_t reply_len)
{
	return vnic_cmd_list(dev, opcode, body, body_len, reply, reply_len,
			     NULL);
}

int vnic_cmd_handle(struct vnic_dev *dev, u32 opcode, u32 handle)
{
	struct vnic_cmd_handle body = { .handle = cpu_to_le32(handle) };

	return vnic_cmd(dev, opcode, &body, sizeof(body), NULL, 0);
}

/* Interrupt: replies have come. */
void vnic_ctrlq_done(struct virtqueue *vq)
{
	struct vnic_dev *dev = vq->vdev->priv;
	struct vnic_ctrlq *q = &dev->ctrl;
	struct vnic_cmd *cmd;
	unsigned long flags;
	unsigned int len;

	spin_lock_irqsave(&q->lock, flags);
	do {
		virtqueue_disable_cb(vq);
		while ((cmd = virtqueue_get_buf(vq, &len))) {
			list_del_init(&cmd->node);
			q->completed++;
			if (cmd->abandoned) {
				vnic_cmd_free(cmd);
				continue;
			}
			cmd->used = len;
			cmd->replied = true;
			complete(&cmd->done);
		}
	} while (!virtqueue_enable_cb(vq));
	spin_unlock_irqrestore(&q->lock, flags);
	wake_up_all(&q->space);
}

/* Wakes everybody who waits for a device that will not answer. */
void vnic_ctrlq_abort(struct vnic_dev *dev)
{
	struct vnic_ctrlq *q = &dev->ctrl;
	struct vnic_cmd *cmd;
	unsigned long flags;

	spin_lock_irqsave(&q->lock, flags);
	list_for_each_entry(cmd, &q->pending, node)
		complete(&cmd->done);
	spin_unlock_irqrestore(&q->lock, flags);
	wake_up_all(&q->space);
}

/* After the reset, when nobody waits any more: frees what was left behind. */
void vnic_ctrlq_drain(struct vnic_dev *dev)
{
	struct vnic_cmd *cmd;

	while ((cmd = virtqueue_detach_unused_buf(dev->ctrl.vq)))
		vnic_cmd_free(cmd);
	INIT_LIST_HEAD(&dev->ctrl.pending);
}

void vnic_ctrlq_init(struct vnic_dev *dev)
{
	spin_lock_init(&dev->ctrl.lock);
	INIT_LIST_HEAD(&dev->ctrl.pending);
	init_waitqueue_head(&dev->ctrl.space);
}
