// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What moves figures from outside: clocks that change, processors and memory that are shared with others.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{processors::Processors, watch::Over};

/// Part of all processors' time that may be stolen before figures are doubtful.
pub const STOLEN: f64 = 0.02;

/// Part of its highest frequency at which a busy processor has to run.
const FREQUENCY: f64 = 0.9;

/// Swapped-out MiB that may be left from long ago.
const SWAPPED: u64 = 64;

const UNKNOWN: &str = "unknown";

/// What the machine tells about itself. What it does not tell is `None`, which a virtual machine often is
/// not told itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Cores that this process may use, which is fewer than processors if some share one.
    pub cores: Option<usize>,
    /// NUMA nodes that this process may use the processors of.
    pub nodes: Option<usize>,
    /// Who chooses the processors' frequency: `performance`, or other names by a comma.
    pub governor: Option<String>,
    /// Whether processors may run faster for a while than they can for ever.
    pub boost: Option<bool>,
    /// Frequency of the quickest processor while one is busy, in MHz.
    pub frequency: Option<u64>,
    /// The highest that there is, in MHz.
    pub highest_frequency: Option<u64>,
    /// Whether this is a virtual machine.
    pub virtual_machine: Option<bool>,
    /// The part of all processors' time that was stolen while the machine was looked at.
    pub stolen: Option<f64>,
    /// Processors that other programs kept busy meanwhile.
    pub others: Option<f64>,
    /// MiB that programs can have without swapping.
    pub available_mib: Option<u64>,
    /// MiB that are swapped out.
    pub swapped_mib: Option<u64>,
    /// Whether memory of programs gets huge pages by itself: `always`, `madvise` or `never`.
    pub huge_pages: Option<String>,
    /// The same of shared memory, which is what guests have.
    pub shared_huge_pages: Option<String>,
}

impl Conditions {
    /// Asks the machine. The caller has kept a processor busy until just before, for its frequency, and `seen`
    /// is what others did meanwhile.
    pub fn look(seen: &Over) -> Self {
        let processors = Processors::look();
        let numbers = processors.0.iter().map(|processor| processor.number).collect::<Vec<_>>();
        Self {
            cores: Some(processors.cores()),
            nodes: Some(processors.nodes().len()),
            stolen: seen.stolen,
            others: seen.others,
            ..Self::read(Path::new("/"), &numbers)
        }
    }

    /// What is told in files below `root`.
    fn read(root: &Path, processors: &[usize]) -> Self {
        let text = |path: &str| {
            let text = fs::read_to_string(root.join(path)).ok()?;
            Some(text.trim().to_string()).filter(|text| !text.is_empty())
        };
        let of_each = |name: &str| {
            let path = |number| format!("sys/devices/system/cpu/cpu{number}/cpufreq/{name}");
            processors.iter().filter_map(|number| text(&path(number))).collect::<Vec<_>>()
        };
        let highest = |name: &str| {
            let kilohertz = of_each(name);
            let kilohertz = kilohertz.iter().filter_map(|text| text.parse::<u64>().ok()).max();
            kilohertz.map(|kilohertz| kilohertz / 1000)
        };
        let flag = |path: &str, on: &str| text(path).map(|text| text == on);
        let mut governors = of_each("scaling_governor");
        governors.sort_unstable();
        governors.dedup();
        let memory = text("proc/meminfo").unwrap_or_default();
        let swapped = mebibytes(&memory, "SwapTotal")
            .zip(mebibytes(&memory, "SwapFree"))
            .map(|(all, free)| all.saturating_sub(free));
        let huge = |name: &str| {
            chosen(&text(&format!("sys/kernel/mm/transparent_hugepage/{name}"))?).map(String::from)
        };
        Self {
            governor: (!governors.is_empty()).then(|| governors.join(", ")),
            boost: flag("sys/devices/system/cpu/cpufreq/boost", "1")
                .or_else(|| flag("sys/devices/system/cpu/intel_pstate/no_turbo", "0")),
            frequency: highest("scaling_cur_freq"),
            highest_frequency: highest("cpuinfo_max_freq"),
            virtual_machine: text("proc/cpuinfo").as_deref().and_then(has_hypervisor),
            available_mib: mebibytes(&memory, "MemAvailable"),
            swapped_mib: swapped,
            huge_pages: huge("enabled"),
            shared_huge_pages: huge("shmem_enabled"),
            ..Self::default()
        }
    }

    /// Why figures from here are to be doubted, each with what mends it.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |warning: String| warnings.push(warning);
        if let Some(governor) = self.governor.as_deref().filter(|&name| name != "performance") {
            warn(format!(
                "the frequency of the processors is chosen by {governor}: set it with `cpupower \
                 frequency-set -g performance`"
            ));
        }
        if self.boost == Some(true) {
            warn(
                "processors may run faster for a while, as heat allows: switch that off (write 0 to \
                 /sys/devices/system/cpu/cpufreq/boost, or 1 to .../intel_pstate/no_turbo)"
                    .into(),
            );
        }
        if let (Some(now), Some(highest)) = (self.frequency, self.highest_frequency)
            && (now as f64) < highest as f64 * FREQUENCY
        {
            warn(format!("a busy processor runs at {now} of {highest} MHz"));
        }
        if let Some(stolen) = self.stolen.filter(|&part| part >= STOLEN) {
            warn(format!(
                "{:.0} % of the processors' time is given to other machines: take one that is not shared",
                stolen * 100.0
            ));
        }
        if self.virtual_machine == Some(true) {
            warn(
                "this is a virtual machine: how fast its processors are and who shares them is up to its \
                 host"
                    .into(),
            );
        }
        if let Some(nodes) = self.nodes.filter(|&nodes| nodes > 1) {
            warn(format!(
                "the processors are on {nodes} NUMA nodes, and memory may be on another than who uses it: \
                 run under `numactl --cpunodebind=0 --membind=0`"
            ));
        }
        if let Some(swapped) = self.swapped_mib.filter(|&mib| mib >= SWAPPED) {
            warn(format!("{swapped} MiB are swapped out: end what takes so much memory"));
        }
        warnings
    }

    /// A warning if `mib` more are not to be had without swapping.
    pub fn too_little_memory_for(&self, mib: u64) -> Option<String> {
        let available = self.available_mib.filter(|&available| available < mib)?;
        Some(format!(
            "{available} MiB of memory are left, and {mib} are wanted: swapping will be measured"
        ))
    }

    /// What does not change from run to run, in a line.
    pub fn line(&self) -> String {
        let or_unknown = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.into());
        let yes =
            |value: Option<bool>| or_unknown(value.map(|v| if v { "yes" } else { "no" }.into()));
        let megahertz = |value: Option<u64>| or_unknown(value.map(|mhz| format!("{mhz} MHz")));
        format!(
            "cores {}, NUMA nodes {}, governor {}, boost {}, {} of {}, virtual machine {}, huge pages {}, \
             of shared memory {}",
            or_unknown(self.cores.map(|cores| cores.to_string())),
            or_unknown(self.nodes.map(|nodes| nodes.to_string())),
            or_unknown(self.governor.clone()),
            yes(self.boost),
            megahertz(self.frequency),
            megahertz(self.highest_frequency),
            yes(self.virtual_machine),
            or_unknown(self.huge_pages.clone()),
            or_unknown(self.shared_huge_pages.clone()),
        )
    }
}

/// The value of a line `Name:   123 kB`.
fn mebibytes(meminfo: &str, name: &str) -> Option<u64> {
    let mut fields = meminfo.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(key, _)| *key == name)?;
    Some(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? >> 10)
}

/// The word in brackets of `always [madvise] never`.
fn chosen(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
}

/// Whether the processors say that something virtualises them; `None` if they list no flags.
fn has_hypervisor(cpuinfo: &str) -> Option<bool> {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'))?.1;
    Some(flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Conditions {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Conditions::read(folder.path(), &[0, 1])
    }

    const MEMORY: &str = "MemTotal:  8388608 kB\nMemAvailable:  4194304 kB\nSwapTotal:  1048576 kB\n\
        SwapFree:  524288 kB\n";

    #[test]
    fn a_machine_that_tells_nothing_is_unknown() {
        let nothing = machine(&[]);
        assert_eq!(nothing, Conditions::default());
        assert_eq!(nothing.warnings(), [""; 0]);
        insta::assert_snapshot!(nothing.line(), @"cores unknown, NUMA nodes unknown, governor unknown, boost unknown, unknown of unknown, virtual machine unknown, huge pages unknown, of shared memory unknown");
    }

    #[test]
    fn a_laptop_is_not_fit() {
        let laptop = machine(&[
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "800000\n"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "2100000\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "4200000\n"),
            ("sys/devices/system/cpu/intel_pstate/no_turbo", "0\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size [never]\n"),
            ("proc/meminfo", MEMORY),
            ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor sse\n"),
        ]);
        let laptop = Conditions { cores: Some(2), nodes: Some(2), stolen: Some(0.051), ..laptop };
        insta::assert_snapshot!(laptop.line(), @"cores 2, NUMA nodes 2, governor powersave, boost yes, 2100 MHz of 4200 MHz, virtual machine yes, huge pages madvise, of shared memory never");
        insta::assert_snapshot!("a_laptop_is_not_fit", laptop.warnings().join("\n"));
        assert_eq!(laptop.too_little_memory_for(4096), None);
        let warning = laptop.too_little_memory_for(4097).unwrap();
        assert!(warning.contains("4096 MiB") && warning.contains("4097"), "{warning}");
    }

    #[test]
    fn a_server_that_was_set_up_is() {
        let server = machine(&[
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2950000\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3000000\n"),
            ("sys/devices/system/cpu/cpufreq/boost", "0\n"),
            ("proc/cpuinfo", "flags\t\t: fpu sse\n"),
        ]);
        assert_eq!((server.boost, server.virtual_machine), (Some(false), Some(false)));
        let server = Conditions { nodes: Some(1), stolen: Some(0.0), ..server };
        assert_eq!(server.warnings(), [""; 0]);
    }
}
