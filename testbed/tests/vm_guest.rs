// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The channel into a guest, against a real one.

use std::{thread, time::Duration};

use vnic_guest_agent::message::Exit;
use vnic_testbed::{
    Error, Result,
    guest::Guest,
    provision::{Provision, kernel::Series, workspace::Workspace},
    vm::{Accelerator, RunDir, Vm, VmConfig},
};

const LIMIT: Duration = Duration::from_secs(60);

/// One guest with the older kernel. The folder is returned because it has to outlive the guest.
fn boot() -> Result<(Vm, RunDir)> {
    let provision = Provision::prepare(Workspace::here())?;
    let image = provision.image(&provision.kernel(Series::Stable)?, &[])?;
    let accelerator = Accelerator::choose(&provision, &image)?;
    let run = RunDir::new()?;
    let vm = Vm::boot(&provision.qemu, &image, &run, &VmConfig::new("guest", accelerator))?;
    Ok((vm, run))
}

#[test]
fn commands_and_files() -> Result<()> {
    let (vm, _run) = boot()?;
    let guest = vm.guest();
    output_and_status(guest)?;
    input_larger_than_a_pipe(guest)?;
    files_of_every_size(guest)?;
    a_late_command_is_killed_with_its_children(guest)?;
    commands_run_side_by_side(guest)?;
    a_background_command_outlives_its_shell(guest)?;
    signals_reach_a_running_command(guest)
}

fn output_and_status(guest: &Guest) -> Result<()> {
    let output = guest.shell("echo out; echo err >&2; exit 3").output()?;
    assert_eq!((output.stdout_text().as_str(), output.stderr_text().as_str()), ("out\n", "err\n"));
    assert_eq!(output.exit, Some(Exit::Code(3)));
    let error = guest.run(["false"], LIMIT).unwrap_err();
    assert!(matches!(error, Error::Failed { exit: Exit::Code(1), .. }), "{error}");
    let error = guest.run(["no-such-program"], LIMIT).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let output = guest.command(["pwd"]).folder("/usr/bin").run()?;
    assert_eq!(output.stdout_text(), "/usr/bin\n");
    let output = guest.shell("echo $COLOUR").env("COLOUR", "red").run()?;
    assert_eq!(output.stdout_text(), "red\n");
    Ok(())
}

fn input_larger_than_a_pipe(guest: &Guest) -> Result<()> {
    let sent = (0..300_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>();
    assert_eq!(guest.command(["cat"]).stdin(sent.clone()).run()?.stdout, sent);
    Ok(())
}

fn files_of_every_size(guest: &Guest) -> Result<()> {
    for size in [0usize, 1, 65_536, 65_537, 3_000_000] {
        let content = (0..size).map(|n| (n % 253) as u8).collect::<Vec<_>>();
        guest.write_file("/tmp/new/folder/file", &content, 0o640)?;
        assert_eq!(guest.read_file("/tmp/new/folder/file")?, content);
    }
    let mode = guest.run(["stat", "-c", "%a", "/tmp/new/folder/file"], LIMIT)?;
    assert_eq!(mode.stdout_text(), "640\n");
    let error = guest.read_file("/no/such/file").unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    Ok(())
}

fn a_late_command_is_killed_with_its_children(guest: &Guest) -> Result<()> {
    let late = guest.shell("echo started; sleep 7777 & wait").limit(Duration::from_millis(1500));
    match late.run().unwrap_err() {
        Error::TimedOut { output, .. } => assert_eq!(output, "started\n"),
        other => panic!("{other}"),
    }
    let left = guest.shell("ps ax -o args | grep '[s]leep 7777'").output()?;
    assert_eq!(left.stdout_text(), "");
    Ok(())
}

fn commands_run_side_by_side(guest: &Guest) -> Result<()> {
    // Each waits for the next, so that they end only if all of them run at once.
    guest.shell("cd /tmp && mkfifo f0 f1 f2 f3").run()?;
    thread::scope(|scope| {
        let commands = (0..4).map(|n| {
            let guest = guest.clone();
            let line = match n {
                0 => "echo token >/tmp/f0; cat /tmp/f3".to_string(),
                n => format!("read token </tmp/f{}; echo $token >/tmp/f{n}", n - 1),
            };
            scope.spawn(move || guest.shell(line).limit(LIMIT).run())
        });
        let commands = commands.collect::<Vec<_>>();
        let outputs = commands.into_iter().map(|command| command.join().unwrap());
        let text = outputs.map(|output| Ok(output?.stdout_text())).collect::<Result<String>>()?;
        assert_eq!(text, "token\n");
        Ok(())
    })
}

fn a_background_command_outlives_its_shell(guest: &Guest) -> Result<()> {
    // The grandchild holds the pipes open; the command has ended all the same.
    let output = guest.shell("sleep 8888 & echo $!").limit(Duration::from_secs(20)).run()?;
    guest.run(["kill", output.stdout_text().trim()], LIMIT)?;
    Ok(())
}

fn signals_reach_a_running_command(guest: &Guest) -> Result<()> {
    let running =
        guest.shell("trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.1; done");
    let running = running.spawn()?;
    running.wait_for_output("ready", LIMIT)?;
    assert!(!running.has_ended()?);
    running.signal(15)?;
    let output = running.wait(LIMIT)?;
    assert_eq!(output.exit, Some(Exit::Code(5)));
    assert!(output.stdout_text().ends_with("got it\n"), "{}", output.stdout_text());
    // One that is dropped does not stay.
    let pid = guest.command(["sleep", "9999"]).spawn()?.pid();
    guest.shell(format!("while test -e /proc/{pid}; do sleep 0.05; done")).limit(LIMIT).run()?;
    Ok(())
}

#[test]
fn a_guest_that_dies_fails_its_commands_at_once() -> Result<()> {
    let (mut vm, _run) = boot()?;
    let waiting = vm.guest().command(["sleep", "1000"]).spawn()?;
    let error = vm.guest().shell("echo c >/proc/sysrq-trigger; sleep 1000").run().unwrap_err();
    match &error {
        Error::Gone { console, .. } => {
            assert!(console.contains("sysrq triggered crash"), "{error}")
        }
        other => panic!("{other}"),
    }
    let error = waiting.wait(Duration::from_secs(1000)).unwrap_err();
    assert!(matches!(error, Error::Gone { .. }), "{error}");
    let error = vm.guest().ping(LIMIT).unwrap_err();
    assert!(matches!(error, Error::Gone { .. }), "{error}");
    // A panic ends the machine: it neither hangs nor starts again.
    vm.wait(LIMIT)?;
    Ok(())
}

#[test]
fn a_machine_that_cannot_start_says_why() -> Result<()> {
    let provision = Provision::prepare(Workspace::here())?;
    let image = provision.image(&provision.kernel(Series::Stable)?, &[])?;
    let run = RunDir::new()?;
    let mut config = VmConfig::new("guest", Accelerator::Tcg);
    config.vnics.push(run.socket("no-daemon-is-here")?);
    let error = Vm::boot(&provision.qemu, &image, &run, &config).unwrap_err().to_string();
    assert!(error.contains("no-daemon-is-here"), "{error}");
    Ok(())
}
