// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is done to a guest from outside the programs: settings before, a loop meanwhile, and the
//! settings as they were.
//!
//! Scripts find the size of the buffers in `$MIB` and the programs in the control group `$GROUP`.
//! A `begin` that returns [`IMPOSSIBLE`] has shown that this kernel cannot do it, and says why.

/// Exit status of a script that found that a kernel lacks something.
pub(super) const IMPOSSIBLE: i32 = 77;

/// One way to disturb a guest.
#[derive(Debug)]
pub(super) struct Disturbance {
    /// For errors.
    pub name: &'static str,
    /// Run once before the programs start.
    pub begin: &'static str,
    /// Run again and again while they run; empty for nothing.
    pub again: &'static str,
    /// Run once after they ended.
    pub end: &'static str,
}

/// Swap space in compressed memory.
pub(super) static ZRAM: Disturbance = Disturbance {
    name: "zram",
    begin: "modprobe zram && echo 1G >/sys/block/zram0/disksize && \
            mkswap /dev/zram0 >/dev/null && swapon /dev/zram0",
    again: "",
    end: "swapoff /dev/zram0 && echo 1 >/sys/block/zram0/reset",
};

/// The same, but soon full, so that what is swapped on after it is used as well.
pub(super) static LITTLE_ZRAM: Disturbance = Disturbance {
    name: "zram",
    begin: "modprobe zram && echo 24M >/sys/block/zram0/disksize && \
            mkswap /dev/zram0 >/dev/null && swapon /dev/zram0",
    again: "",
    end: "swapoff /dev/zram0 && echo 1 >/sys/block/zram0/reset",
};

/// Swap space on a disk.
pub(super) static SWAP_DISK: Disturbance = Disturbance {
    name: "swap disk",
    begin: "mkswap /dev/vda >/dev/null && swapon /dev/vda",
    again: "",
    end: "swapoff /dev/vda",
};

/// The programs may use a quarter of their buffers.
pub(super) static SQUEEZE: Disturbance = Disturbance {
    name: "memory.high",
    begin: "echo $((MIB / 4))M >$GROUP/memory.high",
    again: "",
    end: "echo max >$GROUP/memory.high",
};

/// The kernel looks for pages of the programs that can go.
pub(super) static RECLAIM: Disturbance = Disturbance {
    name: "reclaim",
    begin: "true",
    again: "echo 8M >$GROUP/memory.reclaim 2>/dev/null; sleep 0.1",
    end: "true",
};

/// Pages are moved together. What there is to move comes from programs that throw pages away.
pub(super) static COMPACT: Disturbance = Disturbance {
    name: "compaction",
    begin: "true",
    again: "echo 1 >/proc/sys/vm/compact_memory; sleep 0.1",
    end: "true",
};

/// The kernel looks for equal pages without a pause.
pub(super) static KSM: Disturbance = Disturbance {
    name: "KSM",
    begin: "cd /sys/kernel/mm/ksm && echo 4000 >pages_to_scan && echo 2 >sleep_millisecs && \
            echo 1 >run",
    again: "",
    end: "cd /sys/kernel/mm/ksm && echo 2 >run && echo 0 >run && echo 100 >pages_to_scan && \
          echo 20 >sleep_millisecs",
};

/// The kernel looks for pages that can become huge without a pause.
pub(super) static KHUGEPAGED: Disturbance = Disturbance {
    name: "khugepaged",
    begin: "cd /sys/kernel/mm/transparent_hugepage && echo always >enabled && cd khugepaged && \
            echo 10 >scan_sleep_millisecs && echo 10 >alloc_sleep_millisecs && \
            echo 65536 >pages_to_scan",
    again: "",
    end: "cd /sys/kernel/mm/transparent_hugepage/khugepaged && echo 10000 >scan_sleep_millisecs && \
          echo 60000 >alloc_sleep_millisecs && echo 4096 >pages_to_scan",
};

/// Pages of files that nobody maps at the moment are dropped.
pub(super) static DROP_CACHES: Disturbance = Disturbance {
    name: "drop_caches",
    begin: "true",
    again: "echo 3 >/proc/sys/vm/drop_caches; sleep 0.1",
    end: "true",
};

/// Dirty pages of files are written back, for which the kernel takes their write permission away.
pub(super) static WRITE_BACK: Disturbance =
    Disturbance { name: "write-back", begin: "true", again: "sync; sleep 0.05", end: "true" };

/// Pages follow the threads that use them, and those are sent from node to node.
pub(super) static NUMA_BALANCING: Disturbance = Disturbance {
    name: "NUMA balancing",
    begin: "grep -q '[,-]' /sys/devices/system/node/has_cpu || \
            { echo 'only one node has a processor: nothing calls pages to another'; exit 77; }; \
            cd /sys/kernel/debug/sched/numa_balancing && echo 10 >scan_period_min_ms && \
            echo 40 >scan_period_max_ms && echo 1 >scan_delay_ms && echo 64 >scan_size_mb && \
            echo 1 >/proc/sys/kernel/numa_balancing",
    again: "for mask in 1 2 3; do for task in $(cat $GROUP/cgroup.threads); do \
            taskset -p $mask $task >/dev/null 2>&1; done; sleep 0.7; done",
    end: "echo 0 >/proc/sys/kernel/numa_balancing",
};

/// Pages go to the slow node when the fast ones are full, and come back when they are used. Most
/// of the fast memory is taken away to that end.
pub(super) static TIERING: Disturbance = Disturbance {
    name: "memory tiering",
    begin: "node=/sys/devices/system/node; \
            for n in 0 1; do \
                free=$(awk '/MemFree/ { print int($4 / 1024) }' $node/node$n/meminfo); \
                pages=$(( (free - MIB / 2) / 2 )); [ $pages -gt 0 ] || pages=0; \
                echo $pages >$node/node$n/hugepages/hugepages-2048kB/nr_hugepages; \
            done; \
            cd /sys/kernel/debug/sched/numa_balancing && echo 10 >scan_period_min_ms && \
            echo 40 >scan_period_max_ms && echo 1 >scan_delay_ms && echo 64 >scan_size_mb && \
            echo 10000 >hot_threshold_ms && echo 1 >/sys/kernel/mm/numa/demotion_enabled && \
            echo 2 >/proc/sys/kernel/numa_balancing",
    again: "echo 16M >$GROUP/memory.reclaim 2>/dev/null; sleep 0.3",
    end: "echo 0 >/proc/sys/kernel/numa_balancing; echo 0 >/sys/kernel/mm/numa/demotion_enabled; \
          echo 1000 >/sys/kernel/debug/sched/numa_balancing/hot_threshold_ms; \
          echo 0 >/proc/sys/vm/nr_hugepages",
};

/// Pages of 2 MiB for the programs, twice: children copy theirs, and a move needs a page to go to.
pub(super) static HUGE_2M: Disturbance = Disturbance {
    name: "huge pages",
    begin: "want=$((MIB + 16)); echo 1 >/proc/sys/vm/compact_memory; \
            echo $want >/proc/sys/vm/nr_hugepages; have=$(cat /proc/sys/vm/nr_hugepages); \
            [ $have -ge $want ] || { echo \"only $have of $want pages of 2 MiB were to be had\"; exit 1; }",
    again: "",
    end: "echo 0 >/proc/sys/vm/nr_hugepages",
};

/// The page of 1 GiB that the kernel set apart at its start.
pub(super) static HUGE_1G: Disturbance = Disturbance {
    name: "a page of 1 GiB",
    begin: "pool=/sys/kernel/mm/hugepages/hugepages-1048576kB; \
            [ -d $pool ] || { echo 'the processor has no pages of 1 GiB'; exit 77; }; \
            [ $(cat $pool/free_hugepages) -ge 1 ] || { echo 'the kernel set no page of 1 GiB apart'; exit 1; }",
    again: "",
    end: "true",
};

/// A file system whose files are mapped from persistent memory, without copies.
pub(super) static PMEM: Disturbance = Disturbance {
    name: "persistent memory",
    begin: "grep -q ' /mnt/pmem .*dax=always' /proc/mounts",
    again: "",
    end: "rm -f /mnt/pmem/buffer",
};

/// A file system on a disk.
pub(super) static FILES: Disturbance = Disturbance {
    name: "files on a disk",
    begin: "grep -q ' /mnt/disk ' /proc/mounts",
    again: "",
    end: "rm -f /mnt/disk/buffer",
};

/// The kernel gives memory that it does not have.
pub(super) static OVERCOMMIT: Disturbance = Disturbance {
    name: "overcommit",
    begin: "echo 1 >/proc/sys/vm/overcommit_memory; echo 16384 >/proc/sys/vm/min_free_kbytes",
    again: "",
    end: "echo 0 >/proc/sys/vm/overcommit_memory",
};
