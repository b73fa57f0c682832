// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A page in a browser: how it looks, and what a script finds on it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use vnic_testbed::{process, provision::browser};

/// Long enough for a browser that others leave little of the machine.
const LIMIT: Duration = Duration::from_secs(240);

/// Browsers have no windows narrower than this; a narrower page is shown in a frame.
const NARROWEST: u32 = 500;

/// The light in which a page is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Light {
    /// A light page.
    Day,
    /// A dark one.
    Night,
}

/// What the script found.
#[derive(Debug, Deserialize)]
pub struct Look {
    /// Width of the window that the page sees.
    pub width: f64,
    /// How wide the page is.
    pub scroll_width: f64,
    /// Elements that stick out of the window, and do not scroll by themselves.
    pub sticking_out: Vec<String>,
    /// Width and height of each picture.
    pub pictures: Vec<(f64, f64)>,
    /// Texts of a picture that lie over each other, or outside it.
    pub bad_texts: Vec<String>,
    /// The smallest letters of a picture, in pixels.
    pub smallest_letters: f64,
    /// Size of the letters of the page, in pixels.
    pub letters: f64,
    /// What was loaded beside the page.
    pub resources: Vec<String>,
    /// Scripts in the page.
    pub scripts: usize,
    /// Links within the page that lead nowhere.
    pub dead_links: Vec<String>,
    /// Headings of the parts, in their order.
    pub parts: Vec<String>,
    /// Tables that are wider than their boxes, and scroll in them.
    pub scrolling: usize,
    /// The title.
    pub title: String,
    /// Colour behind the page.
    pub background: String,
    /// What the browser complained of.
    #[serde(skip)]
    pub complaints: Vec<String>,
}

/// A browser with nothing in its memory.
pub struct Browser {
    program: PathBuf,
    folder: TempDir,
}

impl Browser {
    /// Finds or installs it.
    pub fn start() -> Result<Self> {
        Ok(Self { program: browser::find()?, folder: tempfile::tempdir()? })
    }

    /// Takes a picture of the page as it looks in a window of this size.
    pub fn screenshot(&self, page: &str, light: Light, size: (u32, u32), to: &Path) -> Result<()> {
        let wrapper = self.wrap(page, size, "")?;
        let mut command = self.command(light, size);
        command.arg(format!("--screenshot={}", to.display())).arg(url(&wrapper));
        self.run(command)?;
        let png = fs::read(to).with_context(|| format!("no picture in {}", to.display()))?;
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap_or_default());
        ensure!(png.starts_with(b"\x89PNG") && png.len() > 10_000, "a picture of nothing");
        let window = (size.0.max(NARROWEST), size.1);
        ensure!((number(16), number(20)) == window, "a picture of another size");
        Ok(())
    }

    /// Lets a script look at the page in a window of this size.
    pub fn look(&self, page: &str, light: Light, size: (u32, u32)) -> Result<Look> {
        let wrapper = self.wrap(page, size, include_str!("look.js"))?;
        let mut command = self.command(light, size);
        command.arg("--dump-dom").arg(url(&wrapper));
        let (said, complained) = self.run(command)?;
        let found =
            said.split_once("<pre id=\"found\">").and_then(|(_, rest)| rest.split_once("</pre>"));
        let (found, _) = found.with_context(|| format!("the script has not ended: {said}"))?;
        let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let look =
            serde_json::from_str::<Look>(&found).with_context(|| format!("found {found}"))?;
        let complaints = complained.lines().filter(|line| line.contains("CONSOLE"));
        Ok(Look { complaints: complaints.map(Into::into).collect(), ..look })
    }

    /// A page that shows `page` in a frame and runs a script over it.
    fn wrap(&self, page: &str, (width, height): (u32, u32), script: &str) -> Result<PathBuf> {
        fs::write(self.folder.path().join("page.html"), page)?;
        let wrapper = self.folder.path().join("wrapper.html");
        let text = format!(
            "<!doctype html><meta charset=utf-8><link rel=icon href=data:,>\
             <style>html,body{{margin:0;overflow:hidden}}\
             iframe{{border:0;display:block;width:{width}px;height:{height}px}}</style>\
             <iframe src=page.html></iframe><script>{script}</script>"
        );
        fs::write(&wrapper, text)?;
        Ok(wrapper)
    }

    fn command(&self, light: Light, (width, height): (u32, u32)) -> Command {
        let mut command = Command::new(&self.program);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            // The script may look into the frame.
            "--allow-file-access-from-files",
            // Whatever asks for a host does not get it, and complains.
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
        ]);
        command.arg(format!("--window-size={},{height}", width.max(NARROWEST)));
        command.arg(format!("--user-data-dir={}", self.folder.path().join("profile").display()));
        let scheme = if light == Light::Day { 1 } else { 0 };
        command.arg(format!("--blink-settings=preferredColorScheme={scheme}"));
        command
    }

    /// Runs it to its end; returns what it printed, and what it complained of.
    fn run(&self, mut command: Command) -> Result<(String, String)> {
        let [said, complained] = ["stdout", "stderr"].map(|name| self.folder.path().join(name));
        command
            .stdin(Stdio::null())
            .stdout(File::create(&said)?)
            .stderr(File::create(&complained)?);
        let mut child = process::spawn(command).context("cannot start the browser")?;
        let until = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= until {
                child.kill()?;
                child.wait()?;
                bail!(
                    "the browser has not ended in {LIMIT:?}: {}",
                    fs::read_to_string(complained)?
                );
            }
            thread::sleep(Duration::from_millis(50));
        };
        let text =
            |path: &Path| fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned());
        let (said, complained) = (text(&said)?, text(&complained)?);
        ensure!(status.success(), "the browser failed ({status}): {complained}");
        Ok((said, complained))
    }
}

fn url(path: &Path) -> String {
    format!("file://{}", path.display())
}
