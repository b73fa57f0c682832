// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The vNIC in real guests, with both kernels: stock programs, memory that is not there yet, and
//! every way for programs, modules, machines and the daemon to come and go.

mod bed;
mod chaos_program;
mod counters;
mod dead;
mod ends;
mod going;
mod host;
mod loading;
mod machines;
mod memory;
mod memory_map;
mod odp;
mod programs;
mod shell;
mod slow;

/// Names a test for each guest kernel.
macro_rules! with_both_kernels {
    ($($name:path as $stable:ident, $backports:ident;)*) => {$(
        #[test]
        fn $stable() -> anyhow::Result<()> {
            $name(vnic_testbed::provision::kernel::Series::Stable)
        }

        #[test]
        fn $backports() -> anyhow::Result<()> {
            $name(vnic_testbed::provision::kernel::Series::Backports)
        }
    )*};
}

with_both_kernels! {
    programs::run_unmodified as programs_run_unmodified_6_12, programs_run_unmodified_7_3;
    programs::run_over_a_wire as programs_run_over_a_wire_6_12, programs_run_over_a_wire_7_3;
    memory::is_not_pinned as memory_is_not_pinned_6_12, memory_is_not_pinned_7_3;
    memory_map::changes_under_traffic as the_memory_map_changes_under_traffic_6_12,
        the_memory_map_changes_under_traffic_7_3;
    odp::is_what_programs_ask_for as regions_are_what_programs_ask_for_6_12,
        regions_are_what_programs_ask_for_7_3;
    loading::fifty_times as the_module_loads_fifty_times_6_12, the_module_loads_fifty_times_7_3;
    going::frees_everything as programs_that_go_free_everything_6_12,
        programs_that_go_free_everything_7_3;
    ends::in_any_order as programs_end_in_any_order_6_12, programs_end_in_any_order_7_3;
    dead::killed as a_killed_device_holds_nobody_up_6_12, a_killed_device_holds_nobody_up_7_3;
    dead::frozen as a_frozen_device_holds_nobody_up_6_12, a_frozen_device_holds_nobody_up_7_3;
    chaos_program::tells_right_from_wrong as the_chaos_program_tells_right_from_wrong_6_12,
        the_chaos_program_tells_right_from_wrong_7_3;
    slow::pages_hold_nobody_up as slow_pages_hold_nobody_up_6_12, slow_pages_hold_nobody_up_7_3;
    machines::come_and_go as machines_come_and_go_6_12, machines_come_and_go_7_3;
}
