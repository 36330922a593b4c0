(() => {
  const timeline = document.querySelector('.timeline'), data = document.getElementById('figures');
  if (!timeline || !data) return;
  const rows = JSON.parse(data.textContent), plots = [...timeline.querySelectorAll('.plot')];
  const keys = [...timeline.querySelectorAll('[data-k]')], heads = [...timeline.querySelectorAll('.when')];
  if (!rows.length || !plots.length) return;
  keys.forEach(key => key.dataset.peak = key.textContent);
  const add = (place, tag, name) => place.appendChild(Object.assign(document.createElement(tag), {className: name}));
  const lines = plots.map(plot => add(plot, 'i', 'cross')), clock = add(timeline.querySelector('.axis .ticks'), 'b', 'now');
  let at = -1;
  const show = i => {
    at = i;
    const row = rows[i];
    timeline.classList.toggle('reading', !!row);
    heads.forEach(head => head.textContent = row ? row[1] : 'peak');
    keys.forEach(key => key.textContent = row ? row[3 + +key.dataset.k] : key.dataset.peak);
    if (!row) return;
    lines.forEach(line => line.style.left = row[0] * 100 + '%');
    clock.style.left = Math.min(96, Math.max(4, row[0] * 100)) + '%';
    clock.textContent = row[1];
    clock.title = row[2];
  };
  const near = event => {
    const box = plots[0].getBoundingClientRect(), x = (event.clientX - box.left) / box.width;
    if (x < -0.02 || x > 1.02) return show(-1);
    let best = 0;
    rows.forEach((row, i) => { if (Math.abs(row[0] - x) < Math.abs(rows[best][0] - x)) best = i; });
    show(best);
  };
  timeline.addEventListener('pointermove', near);
  timeline.addEventListener('pointerdown', near);
  timeline.addEventListener('pointerleave', () => show(-1));
  timeline.tabIndex = 0;
  timeline.ariaLabel = 'Charts. Arrow keys read them.';
  timeline.addEventListener('blur', () => show(-1));
  timeline.addEventListener('keydown', event => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (event.key === 'Escape') show(-1);
    if (!step || event.target !== timeline) return;
    event.preventDefault();
    show(at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + step)));
  });
})();
