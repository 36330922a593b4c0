'use strict';

// The questions: book or move (a form), cancel (are you sure), and one appointment in full. Native dialogs keep the focus
// inside, give it back, and close on Escape.
//
// Buttons are listened to, never a form's `submit`: a sandbox that forbids forms swallows that event, while Enter still
// presses the first button.

const dialogs = {
  /** Called with a changed appointment and what was done to it. */
  onChange: null,
  /** Called with what went wrong after its dialog had been closed. */
  onFailure: null,
  /** The appointment that is asked about. */
  about: null,
  /** Counts the questions, so that a late answer is not taken for the next one's. */
  asked: 0,

  DURATIONS: [15, 30, 45, 60, 90, 120, 180, 240],
  USUAL_DURATION: 60,
  USUAL_START: 9 * 60,

  element(name) {
    return document.getElementById(`${name}-dialog`);
  },

  /** Opens a dialog with the focus on what is harmless, which the `autofocus` attribute is refused in a frame. */
  open(name, focus) {
    const dialog = dialogs.element(name);
    const from = document.activeElement?.getBoundingClientRect();
    dialogs.asked += 1;
    dialogs.settle(dialog);
    dialog.style.marginTop = '';
    dialog.showModal();
    // The frame of a widget is as tall as its content: the middle of it may be out of sight, what was clicked is not.
    const room = window.innerHeight - dialog.offsetHeight - 16;
    if (document.documentElement.dataset.displayMode !== 'fullscreen' && from && room > 200) {
      dialog.style.marginTop = `${Math.max(16, Math.min(from.top - 80, room))}px`;
    }
    // And it may be shorter than the dialog, until the host hears of this.
    document.body.style.minHeight = `${dialog.scrollHeight + 48}px`;
    (focus ?? dialog.querySelector('[data-close]')).focus({ preventScroll: true });
  },

  // === What is asked ===

  /** Asks for a new appointment on a day: at a time, or else in the morning, or within the hour if that is over. */
  book(date, minutes = null) {
    const { zone } = calendar;
    const now = clock.at(Date.now(), zone);
    const next = date === now.day ? Math.min(Math.ceil((now.minutes + 1) / 60) * 60, 23 * 60) : 0;
    const time = clock.digits(minutes ?? Math.max(next, dialogs.USUAL_START));
    dialogs.form({ heading: 'Book an appointment', go: 'Book', about: null, zone, date, time });
  },

  reschedule(appointment) {
    // In the zone it was booked in, so that moving it by an hour does not move it to another zone.
    const zone = clock.zone(appointment.timeZone);
    const { day: date, minutes } = clock.at(appointment.from, zone);
    const heading = `Reschedule “${appointment.title}”`;
    dialogs.form({ heading, go: 'Reschedule', about: appointment, zone, date, time: clock.digits(minutes) });
  },

  form({ heading, go, about, zone, date, time }) {
    dialogs.about = about;
    const dialog = dialogs.element('form');
    const form = dialog.querySelector('form');
    form.reset();
    form.dataset.zone = zone;
    document.getElementById('form-heading').textContent = heading;
    document.getElementById('form-zone').textContent = `Times are those of ${zone}.`;
    document.getElementById('form-go').dataset.words = go;
    for (const field of dialog.querySelectorAll('[data-only="book"]')) field.hidden = about !== null;
    form.elements.title.required = about === null;
    form.elements.date.value = date;
    form.elements.time.value = time;
    const before = about && Math.round((about.to - about.from) / 60_000);
    const options = dialogs.DURATIONS.map((minutes) => new Option(clock.length(minutes), minutes));
    if (about) options.unshift(new Option(`As before (${clock.length(before)})`, ''));
    form.elements.duration.replaceChildren(...options);
    form.elements.duration.value = about ? '' : String(dialogs.USUAL_DURATION);
    dialogs.open('form', form.elements[about ? 'date' : 'title']);
  },

  cancel(appointment) {
    dialogs.about = appointment;
    document.getElementById('cancel-heading').textContent = `Cancel “${appointment.title}”?`;
    const when = list.whenInFull(appointment);
    const words = `${when}. Its time becomes free. This can’t be undone, only booked anew.`;
    document.getElementById('cancel-words').textContent = words;
    document.getElementById('cancel-go').dataset.words = 'Cancel appointment';
    dialogs.open('cancel');
  },

  details(appointment) {
    dialogs.about = appointment;
    const dialog = dialogs.element('details');
    dialog.querySelector('.details').replaceWith(list.copy('details-template'));
    const { title, description, imported, timeZone, from, to, allDay } = appointment;
    document.getElementById('details-heading').textContent = title;
    list.write(dialog, 'when', list.whenInFull(appointment));
    const elsewhere = !allDay && clock.zone(timeZone) === timeZone && timeZone !== calendar.zone;
    list.write(dialog, 'elsewhere', elsewhere && `${clock.times(from, to, timeZone)} in ${timeZone}`);
    list.write(dialog, 'note', description);
    list.write(dialog, 'imported', imported && 'It was imported from a calendar, and is changed there.');
    list.place(dialog, appointment);
    list.badges(dialog, appointment);
    const isOurs = list.isOurs(appointment);
    for (const button of dialog.querySelectorAll('[data-act="reschedule"], [data-act="cancel"]')) button.hidden = !isOurs;
    dialogs.open('details');
  },

  // === What is answered ===

  /** Carries out what the form asks for, if it is filled in. */
  async submit() {
    const form = dialogs.element('form').querySelector('form');
    if (!form.reportValidity()) return;
    const { title, date, time, duration, location, description } = form.elements;
    const { about } = dialogs;
    const wish = { startsAt: `${date.value}T${time.value}`, timeZone: form.dataset.zone };
    if (duration.value) wish.durationMinutes = Number(duration.value);
    if (about) {
      await dialogs.attempt('form', 'Moving…', 'Moved', 'reschedule_appointment', { appointmentId: about.id, ...wish });
      return;
    }
    const optional = { location: location.value.trim(), description: description.value.trim() };
    for (const [key, words] of Object.entries(optional)) if (words) wish[key] = words;
    await dialogs.attempt('form', 'Booking…', 'Booked', 'book_appointment', { title: title.value.trim(), ...wish });
  },

  async confirm() {
    await dialogs.attempt('cancel', 'Cancelling…', 'Cancelled', 'cancel_appointment', { appointmentId: dialogs.about.id });
  },

  /** Calls the tool; the dialog closes when it has done so, and says what went wrong when it has not. */
  async attempt(name, meanwhile, done, tool, wish) {
    const dialog = dialogs.element(name);
    const go = document.getElementById(`${name}-go`);
    if (go.disabled) return;
    const { asked } = dialogs;
    const isAsking = () => dialog.open && dialogs.asked === asked;
    dialogs.settle(dialog);
    go.disabled = true;
    go.textContent = meanwhile;
    try {
      const appointment = await calendar.change(tool, wish);
      if (isAsking()) dialog.close();
      dialogs.onChange(appointment, done);
    } catch (error) {
      if (!(error instanceof ToolFailure)) throw error;
      if (!isAsking()) {
        dialogs.onFailure(error.message);
        return;
      }
      dialogs.complain(dialog, error.message);
      go.textContent = 'Try again';
      go.disabled = false;
      go.focus();
    }
  },

  complain(dialog, words) {
    const alert = dialog.querySelector('[role="alert"]');
    alert.textContent = words;
    alert.hidden = false;
    document.body.style.minHeight = `${dialog.scrollHeight + 48}px`;
  },

  /** Nothing has gone wrong yet. */
  settle(dialog) {
    const alert = dialog.querySelector('[role="alert"]');
    if (alert) {
      alert.hidden = true;
      alert.textContent = '';
    }
    const go = dialog.querySelector('[data-words]');
    if (go) Object.assign(go, { textContent: go.dataset.words, disabled: false });
  },
};
