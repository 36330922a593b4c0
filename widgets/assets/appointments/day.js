'use strict';

// One day as a grid of hours. What overlaps stands side by side; what lasts whole days stands above.

const day = {
  // The hours that are drawn even if nothing happens in them.
  OFFICE: [8, 18],
  // What is shorter is drawn as if it lasted this long, to be read and hit; what it covers then moves aside.
  SHORTEST_MINUTES: 30,

  draw(appointments, date) {
    // A whole day, or one between two others, has no hours of its own.
    const isLong = ({ allDay, first, last }) => allDay || (first < date && last > date);
    const grid = list.copy('grid-template');
    grid.dataset.day = date;
    const long = appointments.filter(isLong);
    const above = grid.querySelector('.all-day');
    if (long.length) above.append(...long.map(day.event));
    else above.remove();

    const blocks = day.beside(appointments.filter((appointment) => !isLong(appointment)).map((appointment) => {
      const start = appointment.first < date ? 0 : appointment.startMinutes;
      const end = appointment.last > date ? 1440 : appointment.endMinutes;
      const drawn = Math.min(start, 1440 - day.SHORTEST_MINUTES);
      return { appointment, start: drawn, end: Math.max(end, drawn + day.SHORTEST_MINUTES) };
    }));
    const first = Math.min(day.OFFICE[0], ...blocks.map(({ start }) => Math.floor(start / 60)));
    const last = Math.max(day.OFFICE[1], ...blocks.map(({ end }) => Math.min(24, Math.ceil(end / 60))));
    const hours = grid.querySelector('.hours');
    hours.style.setProperty('--hours', last - first);
    hours.dataset.first = first;
    for (let hour = first; hour < last; hour += 1) {
      const label = document.createElement('span');
      label.textContent = clock.hour(hour);
      hours.querySelector('.scale').append(label);
    }
    const events = hours.querySelector('ol');
    for (const { appointment, start, end, column, columns } of blocks) {
      const event = day.event(appointment);
      const place = { top: (start - first * 60) / 60, tall: (end - start) / 60, left: column / columns, wide: 1 / columns };
      for (const [key, value] of Object.entries(place)) event.style.setProperty(`--${key}`, value);
      event.classList.toggle('is-short', end - start < 60);
      event.classList.toggle('is-tall', end - start >= 80);
      events.append(event);
    }
    if (!blocks.length) events.remove();
    day.tick(grid);
    return grid;
  },

  /** Gives each block a column, and tells it of how many: those of the blocks it overlaps with, directly or through others. */
  beside(blocks) {
    blocks.sort((a, b) => a.start - b.start || b.end - a.end);
    let cluster = [];
    let ends = [];
    const close = () => {
      for (const block of cluster) block.columns = ends.length;
      [cluster, ends] = [[], []];
    };
    for (const block of blocks) {
      if (cluster.length && block.start >= Math.max(...ends)) close();
      const free = ends.findIndex((end) => end <= block.start);
      block.column = free < 0 ? ends.length : free;
      ends[block.column] = block.end;
      cluster.push(block);
    }
    close();
    return blocks;
  },

  event(appointment) {
    const event = list.copy('event-template');
    const { id, title, status, location } = appointment;
    event.dataset.id = id;
    event.dataset.status = status;
    list.write(event, 'title', title);
    list.write(event, 'time', list.when(appointment));
    list.write(event, 'place', location);
    const words = [title, list.when(appointment), location, status === 'confirmed' ? '' : status];
    event.querySelector('button').setAttribute('aria-label', words.filter(Boolean).join(', '));
    return event;
  },

  /** Draws where in the day it is now. */
  tick(grid) {
    const now = clock.at(Date.now(), calendar.zone);
    const line = grid.querySelector('.now');
    const hours = grid.querySelector('.hours');
    const top = now.minutes / 60 - Number(hours.dataset.first);
    line.hidden = grid.dataset.day !== now.day || top < 0 || top > Number(hours.style.getPropertyValue('--hours'));
    line.style.setProperty('--top', top);
  },

  /** The half hour of a grid that was pointed at, in minutes of the day. */
  pointedAt(hours, { clientY }) {
    const { top, height } = hours.getBoundingClientRect();
    const minutes = ((clientY - top) / height) * Number(hours.style.getPropertyValue('--hours')) * 60;
    return Number(hours.dataset.first) * 60 + Math.floor(minutes / 30) * 30;
  },
};
