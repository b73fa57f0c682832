// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report's page in a real browser, on a phone and on a desk, by day and by night. The pictures that
//! were taken stay in `target/testbed/screenshots`.

mod browser;
mod sample;

use std::{fs, path::PathBuf};

use anyhow::{Result, ensure};
use browser::{Browser, Light, Look};
use vnic_testbed::{
    page::{Inputs, render},
    provision::workspace::Workspace,
};

const PHONE: (u32, u32) = (360, 740);
const DESK: (u32, u32) = (1280, 900);

/// What holds for every page in every window.
fn is_well(look: &Look, (width, _): (u32, u32)) -> Result<()> {
    ensure!(look.width == f64::from(width), "seen at {} and not {width}", look.width);
    ensure!(look.scroll_width <= look.width, "{} wide at {width}: {look:?}", look.scroll_width);
    ensure!(look.sticking_out.is_empty(), "at {width}: {:?}", look.sticking_out);
    ensure!(look.complaints.is_empty(), "{:?}", look.complaints);
    ensure!(look.resources.is_empty() && look.scripts == 0, "{:?}", look.resources);
    ensure!(look.dead_links.is_empty(), "{:?}", look.dead_links);
    ensure!(look.letters >= 16.0, "letters of {} px", look.letters);
    for picture in &look.pictures {
        ensure!(picture.0 > 200.0 && picture.1 > 60.0, "a picture of {picture:?}");
    }
    Ok(())
}

fn screenshots() -> Result<PathBuf> {
    let folder = Workspace::here().target().join("testbed/screenshots");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

#[test]
fn everything_fits_and_nothing_is_loaded() -> Result<()> {
    let browser = Browser::start()?;
    let page = render(&sample::rich());
    let folder = screenshots()?;
    for (name, size) in [("phone", PHONE), ("desk", DESK)] {
        let mut backgrounds = Vec::new();
        for (time, light) in [("day", Light::Day), ("night", Light::Night)] {
            let look = browser.look(&page, light, size)?;
            is_well(&look, size)?;
            ensure!(look.pictures.len() >= 10, "{} plots", look.pictures.len());
            ensure!(look.bad_texts.is_empty(), "at {name}: {:#?}", look.bad_texts);
            ensure!(look.smallest_letters >= 10.0, "letters of {} px", look.smallest_letters);
            let parts = [
                "Summary",
                "Changes",
                "Plots",
                "Tables",
                "Notes",
                "Environment",
                "Reproduce",
                "Data",
            ];
            ensure!(look.parts == parts, "{:?}", look.parts);
            ensure!(name != "phone" || look.scrolling > 0, "wide tables scroll in their boxes");
            backgrounds.push(look.background);
            // As long as the page is, within reason: what is below the fold matters as well.
            let whole = (size.0, 12_000);
            browser.screenshot(&page, light, size, &folder.join(format!("{name}-{time}.png")))?;
            browser.screenshot(
                &page,
                light,
                whole,
                &folder.join(format!("{name}-{time}-whole.png")),
            )?;
        }
        ensure!(backgrounds[0] != backgrounds[1], "night is as bright as day: {backgrounds:?}");
    }
    Ok(())
}

#[test]
fn hostile_texts_are_texts() -> Result<()> {
    let browser = Browser::start()?;
    let page = render(&sample::hostile());
    let well = browser.look(&render(&sample::rich()), Light::Day, PHONE)?;
    let look = browser.look(&page, Light::Day, PHONE)?;
    is_well(&look, PHONE)?;
    ensure!(look.title == well.title && look.parts == well.parts, "{look:?}");
    Ok(())
}

#[test]
fn an_empty_page_is_a_page() -> Result<()> {
    let look = Browser::start()?.look(&render(&Inputs::default()), Light::Day, PHONE)?;
    is_well(&look, PHONE)
}

/// Or the tests above would prove nothing.
#[test]
fn a_broken_page_is_seen() -> Result<()> {
    let browser = Browser::start()?;
    let page = render(&Inputs::default());
    let with = |more: &str| page.replace("</main>", &format!("{more}</main>"));
    let look = |more: &str| browser.look(&with(more), Light::Day, PHONE);
    let wide = look("<div style='width:900px'>wide</div>")?;
    ensure!(wide.scroll_width > wide.width && wide.sticking_out.len() == 1, "{wide:?}");
    let asking = look("<img src='http://host.invalid/a.png'>")?;
    ensure!(!asking.complaints.is_empty(), "the policy stopped it, and the browser said so");
    let script = look("<script>document.title = 'broken'</script>")?;
    ensure!(script.scripts == 1 && script.title != "broken", "{script:?}");
    let text = |x: u32| format!("<text x='{x}' y='20' font-size='12'>label</text>");
    let svg = format!(
        "<div class=picture><svg viewBox='0 0 300 100'>{}{}{}</svg></div>",
        text(10),
        text(20),
        text(290)
    );
    let texts = look(&svg)?;
    ensure!(texts.bad_texts.len() == 2, "{texts:?}");
    Ok(())
}
