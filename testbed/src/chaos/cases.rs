// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The list of cases, in the order in which they run.

use super::{
    case::{Case, Death, Evidence, Program, Shape},
    disturb,
};

const NONE: Case = Case {
    name: "",
    about: "",
    shape: Shape::Usual,
    programs: &[],
    disturbances: &[],
    dimms: false,
    deaths: &[],
    evidence: &[],
    long: false,
};

/// Pages that went out to swap space and came back.
const SWAPPED: [Evidence; 2] = [Evidence::of(&["pswpout"], 256), Evidence::of(&["pswpin"], 64)];

const DEMOTED: &[&str] =
    &["pgdemote_kswapd", "pgdemote_direct", "pgdemote_khugepaged", "pgdemote_proactive"];

/// What the program does itself proves itself: it fails unless it has done it.
const fn by_itself(name: &'static str, about: &'static str, programs: &'static [Program]) -> Case {
    Case { name, about, programs, ..NONE }
}

/// All cases.
pub static CASES: &[Case] = &[
    by_itself(
        "dontneed",
        "pages are thrown away by madvise(MADV_DONTNEED) and come back empty",
        &[Program::that_does("dontneed")],
    ),
    Case {
        // Without swap space the kernel frees such pages at once, and without need never.
        disturbances: &[&disturb::ZRAM, &disturb::RECLAIM],
        evidence: &[Evidence::of(&["pglazyfree"], 128), Evidence::of(&["pglazyfreed"], 32)],
        ..by_itself(
            "free",
            "pages may go whenever the kernel likes: madvise(MADV_FREE)",
            &[Program::that_does("free")],
        )
    },
    // Of this the newer kernel's counters do not always tell: whether they do depends on how old the
    // pages are. That the calls succeed has to do.
    by_itself(
        "cold",
        "pages lose their place in the working set: madvise(MADV_COLD)",
        &[Program::that_does("cold")],
    ),
    Case {
        disturbances: &[&disturb::ZRAM],
        evidence: &SWAPPED,
        ..by_itself(
            "pageout",
            "pages are swapped out by madvise(MADV_PAGEOUT)",
            &[Program::that_does("pageout")],
        )
    },
    Case {
        disturbances: &[&disturb::ZRAM, &disturb::SQUEEZE],
        evidence: &SWAPPED,
        ..by_itself(
            "swap-zram",
            "memory.high is a quarter of the buffer, swap space is compressed memory",
            &[Program::of("anon")],
        )
    },
    Case {
        disturbances: &[&disturb::SWAP_DISK, &disturb::SQUEEZE],
        evidence: &SWAPPED,
        ..by_itself(
            "swap-disk",
            "memory.high is a quarter of the buffer, swap space is a disk",
            &[Program::of("anon")],
        )
    },
    by_itself("mremap", "pages move to other addresses and back", &[Program::that_does("mremap")]),
    by_itself("remap", "munmap, and mmap at the same address", &[Program::that_does("remap")]),
    by_itself(
        "mprotect",
        "permissions are taken away and given back",
        &[Program::that_does("mprotect")],
    ),
    by_itself("fork", "copy on write, with both sides writing", &[Program::that_does("fork")]),
    Case {
        disturbances: &[&disturb::KSM],
        // How many pages are merged at the end says little: writing parts them all the time. What was parted
        // had been merged.
        evidence: &[Evidence::of(&["cow_ksm"], 64)],
        ..by_itself(
            "ksm",
            "equal pages are merged, and parted when they are written",
            &[Program::that_does("ksm")],
        )
    },
    Case {
        disturbances: &[&disturb::KHUGEPAGED],
        evidence: &[Evidence::of(&["thp_collapse_alloc"], 4), Evidence::of(&["thp_split_pmd"], 4)],
        ..by_itself(
            "thp",
            "pages become huge ones and are split again, by khugepaged and by madvise",
            &[Program { memory: "thp", ..Program::that_does("thp") }],
        )
    },
    Case {
        disturbances: &[&disturb::COMPACT],
        evidence: &[
            Evidence::of(&["compact_isolated"], 256),
            Evidence::of(&["pgmigrate_success"], 256),
        ],
        ..by_itself(
            "compaction",
            "the kernel moves pages together",
            &[Program::that_does("dontneed")],
        )
    },
    Case {
        evidence: &[Evidence::of(&["pgmigrate_success"], 256)],
        ..by_itself(
            "move-pages",
            "the program moves pages between two NUMA nodes",
            &[Program::that_does("move_pages")],
        )
    },
    Case {
        disturbances: &[&disturb::NUMA_BALANCING],
        evidence: &[
            Evidence::of(&["numa_hint_faults"], 256),
            Evidence::of(&["numa_pages_migrated"], 256),
        ],
        ..by_itself(
            "numa",
            "the kernel moves pages between two NUMA nodes, after threads that change nodes",
            &[Program::of("anon")],
        )
    },
    Case {
        disturbances: &[&disturb::TIERING],
        evidence: &[Evidence::of(DEMOTED, 256), Evidence::of(&["pgpromote_success"], 256)],
        ..by_itself(
            "tiering",
            "pages go to a slow NUMA node and come back",
            &[Program { mib: 96, ..Program::of("anon") }],
        )
    },
    Case {
        dimms: true,
        evidence: &[
            Evidence::of(&["dimms_unplugged"], 1),
            Evidence::of(&["pgmigrate_success"], 256),
        ],
        ..by_itself(
            "hot-unplug",
            "memory modules are plugged in, filled, and taken away",
            &[Program::that_does("dontneed")],
        )
    },
    Case {
        disturbances: &[&disturb::HUGE_2M],
        ..by_itself(
            "hugetlb-2m",
            "the buffer is made of pages of 2 MiB, with all mutations that suit them",
            &[Program { memory: "hugetlb-2m", qps: 2, ..Program::that_does("all") }],
        )
    },
    Case {
        shape: Shape::Gigantic,
        disturbances: &[&disturb::HUGE_1G],
        ..by_itself(
            "hugetlb-1g",
            "the buffer is a page of 1 GiB, with all mutations that suit it",
            &[Program { memory: "hugetlb-1g", mib: 1024, ..Program::that_does("all") }],
        )
    },
    Case {
        disturbances: &[&disturb::ZRAM, &disturb::SQUEEZE],
        evidence: &SWAPPED,
        ..by_itself(
            "shm",
            "the buffer is shared memory, which is swapped and mutated in every way",
            &[Program { memory: "shm", ..Program::that_does("all") }],
        )
    },
    Case {
        disturbances: &[&disturb::FILES, &disturb::WRITE_BACK, &disturb::DROP_CACHES],
        evidence: &[
            Evidence::of(&["nr_written"], 256),
            Evidence::of(&["drop_pagecache"], 4),
            Evidence::of(&["pgmajfault"], 16),
        ],
        ..by_itself(
            "file",
            "the buffer is a file on a disk: write-back, dropped pages, and every mutation",
            &[Program { memory: "file:/mnt/disk/buffer", ..Program::that_does("all") }],
        )
    },
    Case {
        disturbances: &[&disturb::PMEM, &disturb::WRITE_BACK],
        ..by_itself(
            "dax",
            "the buffer is a file in persistent memory, mapped without copies",
            &[Program { memory: "dax:/mnt/pmem/buffer", ..Program::that_does("all") }],
        )
    },
    Case {
        deaths: &[Death::Exit],
        evidence: &[Evidence::of(&["deaths"], 10)],
        ..by_itself(
            "exit",
            "programs return in the middle of a transfer; others are not disturbed",
            &[Program { qps: 2, mib: 16, ..Program::of("anon") }],
        )
    },
    Case {
        deaths: &[Death::Kill],
        evidence: &[Evidence::of(&["deaths"], 10)],
        ..by_itself(
            "kill",
            "programs are killed in the middle of a transfer; others are not disturbed",
            &[Program { qps: 2, mib: 16, ..Program::of("anon") }],
        )
    },
    Case {
        shape: Shape::Small,
        disturbances: &[&disturb::SWAP_DISK, &disturb::OVERCOMMIT],
        evidence: &[
            Evidence::of_left(&["pswpout"], 100_000),
            Evidence::of_left(&["pswpin"], 100_000),
        ],
        ..by_itself(
            "overcommit",
            "a buffer four times the size of the guest's memory, all of it written and read",
            &[Program {
                mib: 4 * super::machine::SMALL_MIB,
                overcommit: true,
                ..Program::of("anon")
            }],
        )
    },
    Case {
        disturbances: &[
            &disturb::LITTLE_ZRAM,
            &disturb::SWAP_DISK,
            &disturb::KSM,
            &disturb::KHUGEPAGED,
            &disturb::COMPACT,
            &disturb::FILES,
            &disturb::WRITE_BACK,
            &disturb::DROP_CACHES,
            &disturb::NUMA_BALANCING,
        ],
        dimms: true,
        deaths: &[Death::Kill, Death::Exit],
        evidence: &[
            SWAPPED[0],
            SWAPPED[1],
            Evidence::of(&["pgmigrate_success"], 256),
            Evidence::of(&["thp_split_pmd"], 1),
            Evidence::of(&["ksm_pages_sharing"], 1),
            Evidence::of(&["deaths"], 10),
            Evidence::of(&["dimms_unplugged"], 1),
        ],
        long: true,
        ..by_itself(
            "together",
            "all of it at once, for longer",
            &[
                Program::that_does("all"),
                Program { memory: "shm", mib: 24, qps: 2, ..Program::that_does("all") },
                Program {
                    memory: "file:/mnt/disk/buffer",
                    mib: 24,
                    qps: 2,
                    ..Program::that_does("all")
                },
            ],
        )
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_different_and_words() {
        let names = CASES.iter().map(|case| case.name).collect::<BTreeSet<_>>();
        assert_eq!(names.len(), CASES.len());
        assert!(
            names.iter().all(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
        );
    }

    #[test]
    fn a_case_is_found_by_its_name_and_by_its_family() {
        let names =
            |word| Case::find(word).unwrap().iter().map(|case| case.name).collect::<Vec<_>>();
        assert_eq!(names("fork"), ["fork"]);
        assert_eq!(names("swap"), ["swap-zram", "swap-disk"]);
        assert_eq!(names("free"), ["free"]);
        assert!(Case::find("swa").unwrap_err().contains("swap-zram"));
    }

    #[test]
    fn every_case_is_disturbed_by_something_that_must_be_seen() {
        for case in CASES {
            let mutates = case.programs.iter().any(|program| program.mutate != "none");
            assert!(mutates || !case.evidence.is_empty(), "{}", case.name);
        }
    }
}
