// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which thread gets which processor, so that busy threads neither move nor meet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::processors::{Processor, Processors, list_text};

/// A processor for each of several busy threads, and what is left for all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Names of the threads, each with the number of its processor.
    pub threads: Vec<(String, usize)>,
    /// Where everything else may run.
    pub rest: Vec<usize>,
    /// What the machine is too small for; empty if each thread has a core of its own and a core is left.
    pub compromises: Vec<String>,
    /// What else a reader has to know.
    pub remarks: Vec<String>,
}

impl Plan {
    /// Shares `processors` out among threads of these names, which all stay busy. Cores come before the
    /// second processors of cores, and a node that has enough of them before several.
    pub fn new(processors: &Processors, names: &[String]) -> Self {
        let wanted = names.len();
        let cores = chosen_cores(processors, wanted + 1);
        let (mut compromises, mut remarks) = (Vec::new(), Vec::new());
        let nodes = cores.iter().filter_map(|core| core.first()).map(|first| first.node);
        let nodes = nodes.collect::<BTreeSet<_>>().len();
        if nodes > 1 {
            remarks.push(format!("the threads are spread over {nodes} NUMA nodes"));
        }
        // The first core is where interrupts tend to go; busy threads come after it.
        let order = if cores.len() > wanted {
            cores.iter().skip(1).filter_map(|core| core.first()).collect::<Vec<_>>()
        } else {
            let turns = cores.iter().map(Vec::len).max().unwrap_or(0);
            let turn = |turn: usize| cores.iter().filter_map(move |core| core.get(turn));
            (0..turns).flat_map(turn).collect()
        };
        let numbers = order.iter().map(|processor| processor.number).collect::<Vec<_>>();
        if cores.len() <= wanted {
            let (cores, processors) = (cores.len(), numbers.len());
            compromises.push(format!(
                "{wanted} busy threads and one for everything else want as many cores, and there are \
                 {cores}"
            ));
            if processors > cores {
                compromises.push("threads share cores as SMT siblings".into());
            }
            if processors < wanted {
                compromises.push(format!("{processors} processors are shared by {wanted} threads"));
            }
        }
        let threads =
            names.iter().cloned().zip(numbers.iter().copied().cycle()).collect::<Vec<_>>();
        let taken = threads.iter().map(|(_, number)| *number).collect::<BTreeSet<_>>();
        let rest = left_over(processors, &taken);
        Self { threads, rest, compromises, remarks }
    }
}

/// Processors by core, of one node if it has `enough` cores.
fn chosen_cores(processors: &Processors, enough: usize) -> Vec<Vec<Processor>> {
    let mut by_core = BTreeMap::<usize, Vec<Processor>>::new();
    for &processor in &processors.0 {
        by_core.entry(processor.core).or_default().push(processor);
    }
    let of_node = |node: usize| {
        let cores = by_core.values().filter(|core| core[0].node == node);
        cores.cloned().collect::<Vec<_>>()
    };
    let fitting = processors.nodes().into_iter().map(of_node).find(|cores| cores.len() >= enough);
    fitting.unwrap_or_else(|| by_core.into_values().collect())
}

/// Processors of cores that no busy thread has; if there are none, those that none has; else all.
fn left_over(processors: &Processors, taken: &BTreeSet<usize>) -> Vec<usize> {
    let all = &processors.0;
    let cores = all.iter().filter(|p| taken.contains(&p.number)).map(|p| p.core);
    let cores = cores.collect::<BTreeSet<_>>();
    let numbers = |wanted: &dyn Fn(&Processor) -> bool| {
        all.iter().filter(|p| wanted(p)).map(|p| p.number).collect::<Vec<_>>()
    };
    let choices =
        [numbers(&|p| !cores.contains(&p.core)), numbers(&|p| !taken.contains(&p.number))];
    choices.into_iter().find(|choice| !choice.is_empty()).unwrap_or_else(|| numbers(&|_| true))
}

impl fmt::Display for Plan {
    /// The plan in a line: `left CPU 0: 1, worker-0: 2; everything else: 0,3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = self.threads.iter().map(|(name, number)| format!("{name}: {number}"));
        let threads = threads.collect::<Vec<_>>().join(", ");
        write!(f, "{threads}; everything else: {}", list_text(&self.rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Processors numbered as firmware does it: first threads of all cores, then the second ones.
    fn machine(nodes: usize, cores: usize, threads: usize) -> Processors {
        let all = nodes * cores;
        let processor =
            |number| Processor { number, core: number % all, node: number % all / cores };
        Processors((0..all * threads).map(processor).collect())
    }

    fn plan(processors: &Processors, threads: usize) -> Plan {
        let names = ["left 0", "left 1", "right 0", "right 1", "worker-0", "worker-1", "worker-2"];
        Plan::new(processors, &names.map(String::from)[..threads])
    }

    #[test]
    fn each_has_a_core_where_there_are_enough() {
        let plan = plan(&machine(1, 8, 1), 5);
        insta::assert_snapshot!(plan, @"left 0: 1, left 1: 2, right 0: 3, right 1: 4, worker-0: 5; everything else: 0,6-7");
        assert!(plan.compromises.is_empty() && plan.remarks.is_empty());
    }

    #[test]
    fn siblings_stay_idle_and_one_node_is_enough() {
        let plan = plan(&machine(2, 6, 2), 5);
        insta::assert_snapshot!(plan, @"left 0: 1, left 1: 2, right 0: 3, right 1: 4, worker-0: 5; everything else: 0,6-12,18-23");
        assert!(plan.compromises.is_empty() && plan.remarks.is_empty());
    }

    #[test]
    fn several_nodes_are_a_remark() {
        let plan = plan(&machine(2, 4, 1), 5);
        assert!(plan.compromises.is_empty());
        assert_eq!(plan.remarks, ["the threads are spread over 2 NUMA nodes"]);
    }

    #[test]
    fn siblings_are_taken_where_cores_are_few() {
        let plan = plan(&machine(1, 4, 2), 5);
        insta::assert_snapshot!(plan, @"left 0: 0, left 1: 1, right 0: 2, right 1: 3, worker-0: 4; everything else: 5-7");
        assert_eq!(plan.compromises.len(), 2, "{:?}", plan.compromises);
    }

    #[test]
    fn two_processors_are_shared() {
        let plan = plan(&machine(1, 2, 1), 5);
        insta::assert_snapshot!(plan, @"left 0: 0, left 1: 1, right 0: 0, right 1: 1, worker-0: 0; everything else: 0-1");
        insta::assert_snapshot!(plan.compromises.join("\n"), @r"
        5 busy threads and one for everything else want as many cores, and there are 2
        2 processors are shared by 5 threads
        ");
    }

    proptest! {
        #[test]
        fn nobody_meets_without_a_compromise(
            nodes in 1usize..4, cores in 1usize..12, siblings in 1usize..3, threads in 1usize..8
        ) {
            let processors = machine(nodes, cores, siblings);
            let plan = plan(&processors, threads);
            prop_assert_eq!(plan.threads.len(), threads);
            prop_assert!(!plan.rest.is_empty());
            let core = |number: usize| processors.0[number].core;
            let taken = plan.threads.iter().map(|(_, number)| core(*number));
            let taken = taken.collect::<BTreeSet<_>>();
            let apart = taken.len() == threads
                && plan.rest.iter().all(|&number| !taken.contains(&core(number)));
            prop_assert_eq!(apart, plan.compromises.is_empty());
            prop_assert_eq!(plan.compromises.is_empty(), nodes * cores > threads);
        }
    }
}
