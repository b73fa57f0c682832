// SPDX-License-Identifier: Apache-2.0 OR MIT
// Looks at the page in the frame, and leaves what it found as text.

window.addEventListener('load', () => {
  const frame = document.querySelector('iframe').contentWindow;
  const page = frame.document;
  const root = page.documentElement;
  const name = (element) => `${element.tagName} ${element.className} ${element.textContent.slice(0, 40)}`;

  const scrolls = (element) => {
    for (let at = element; at; at = at.parentElement) {
      if (['auto', 'scroll', 'hidden'].includes(frame.getComputedStyle(at).overflowX)) return true;
    }
    return false;
  };
  const out = (element) => element.getBoundingClientRect().right > frame.innerWidth + 0.5;
  const stickingOut = [...page.body.querySelectorAll('*')].filter((element) => out(element) && !scrolls(element));

  const badTexts = [];
  let smallest = Infinity;
  const svgs = [...page.querySelectorAll('.picture svg')];
  for (const svg of svgs) {
    const around = svg.getBoundingClientRect();
    const scale = around.width / svg.viewBox.baseVal.width;
    const texts = [...svg.querySelectorAll('text')].filter((text) => text.textContent.trim());
    const boxes = texts.map((text) => text.getBoundingClientRect());
    texts.forEach((text, index) => {
      smallest = Math.min(smallest, parseFloat(text.getAttribute('font-size')) * scale);
      const box = boxes[index];
      if (box.left < around.left - 1 || box.right > around.right + 1 || box.top < around.top - 1 || box.bottom > around.bottom + 1) {
        badTexts.push(`outside: ${text.textContent.trim()}`);
      }
      for (let other = 0; other < index; other += 1) {
        const with_ = boxes[other];
        const wide = Math.min(box.right, with_.right) - Math.max(box.left, with_.left);
        const high = Math.min(box.bottom, with_.bottom) - Math.max(box.top, with_.top);
        // Boxes of letters have room above and below.
        if (wide > 1 && high > box.height / 4) {
          badTexts.push(`${text.textContent.trim()} over ${texts[other].textContent.trim()}`);
        }
      }
    });
  }

  const links = [...page.querySelectorAll('a[href^="#"]')].map((link) => link.getAttribute('href'));
  const found = {
    width: frame.innerWidth,
    scroll_width: root.scrollWidth,
    sticking_out: stickingOut.map(name),
    pictures: svgs.map((svg) => [svg.getBoundingClientRect().width, svg.getBoundingClientRect().height]),
    bad_texts: badTexts,
    smallest_letters: smallest === Infinity ? 0 : smallest,
    letters: parseFloat(frame.getComputedStyle(page.body).fontSize),
    resources: frame.performance.getEntriesByType('resource').map((entry) => entry.name),
    scripts: page.scripts.length,
    dead_links: links.filter((link) => !page.getElementById(link.slice(1))),
    parts: [...page.querySelectorAll('h2')].map((heading) => heading.textContent),
    scrolling: [...page.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth).length,
    title: page.title,
    background: frame.getComputedStyle(page.body).backgroundColor,
  };
  const text = document.createElement('pre');
  text.id = 'found';
  text.textContent = JSON.stringify(found);
  document.body.append(text);
});
