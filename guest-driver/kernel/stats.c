// SPDX-License-Identifier: GPL-2.0
/* Counters in debugfs: vnic_rdma/DEVICE/{stats,device_counters}. */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "vnic.h"

static struct dentry *vnic_debugfs;

static int stats_show(struct seq_file *seq, void *unused)
{
	struct vnic_dev *dev = seq->private;
	struct vnic_stats *s = &dev->stats;

#define NOW(name) seq_printf(seq, #name " %d\n", atomic_read(&s->name))
#define SUM(name) seq_printf(seq, #name " %lld\n", atomic64_read(&s->name))
	NOW(ctx);
	NOW(pd);
	NOW(mr);
	NOW(cq);
	NOW(qp);
	NOW(pasid);
	NOW(pages);
	NOW(buried);
	SUM(faults_served);
	SUM(faults_failed);
	SUM(faults_gone);
	SUM(fault_pages);
	SUM(advised_pages);
	SUM(invalidations);
	SUM(invalidation_waits);
	SUM(events);
	SUM(stray_events);
#undef NOW
#undef SUM
	seq_printf(seq, "dead %d\n", vnic_dead(dev));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(stats);

static int device_counters_show(struct seq_file *seq, void *unused)
{
	struct vnic_dev *dev = seq->private;
	struct vnic_reply_counters c;
	int err;

	err = vnic_cmd(dev, VNIC_CMD_QUERY_COUNTERS, NULL, 0, &c, sizeof(c));
	if (err)
		return err;
	seq_printf(seq, "pasids %u\n", le32_to_cpu(c.pasids));
	seq_printf(seq, "contexts %u\n", le32_to_cpu(c.contexts));
	seq_printf(seq, "pds %u\n", le32_to_cpu(c.pds));
	seq_printf(seq, "mrs %u\n", le32_to_cpu(c.mrs));
	seq_printf(seq, "cqs %u\n", le32_to_cpu(c.cqs));
	seq_printf(seq, "qps %u\n", le32_to_cpu(c.qps));
	seq_printf(seq, "page_requests_outstanding %u\n",
		   le32_to_cpu(c.page_requests_outstanding));
	seq_printf(seq, "page_requests %llu\n", le64_to_cpu(c.page_requests));
	seq_printf(seq, "send_requests %llu\n", le64_to_cpu(c.send_requests));
	seq_printf(seq, "bytes %llu\n", le64_to_cpu(c.bytes));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(device_counters);

void vnic_stats_add(struct vnic_ib *ib)
{
	ib->debugfs = debugfs_create_dir(dev_name(&ib->ibdev.dev), vnic_debugfs);
	debugfs_create_file("stats", 0444, ib->debugfs, ib->dev, &stats_fops);
	debugfs_create_file("device_counters", 0444, ib->debugfs, ib->dev,
			    &device_counters_fops);
}

/* Waits for readers. */
void vnic_stats_remove(struct vnic_ib *ib)
{
	debugfs_remove(ib->debugfs);
}

void vnic_stats_init(void)
{
	vnic_debugfs = debugfs_create_dir("vnic_rdma", NULL);
}

void vnic_stats_exit(void)
{
	debugfs_remove(vnic_debugfs);
}
