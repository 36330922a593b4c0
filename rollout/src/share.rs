//! How the traffic is divided: one number, green's percent, says it for both colors.

use bg_runtime::Color;

/// The color that gets all of the traffic; `None` while both get some.
#[must_use]
pub fn live(green_percent: u8) -> Option<Color> {
    [Color::Blue, Color::Green].into_iter().find(|color| of(*color, green_percent) == 100)
}

/// A color's percent, from green's; and green's, from a color's.
#[must_use]
pub fn of(color: Color, percent: u8) -> u8 {
    match color {
        Color::Blue => 100_u8.saturating_sub(percent),
        Color::Green => percent,
    }
}

/// The color that gets most of the traffic.
#[must_use]
pub fn most(green_percent: u8) -> Color {
    if green_percent > 50 { Color::Green } else { Color::Blue }
}
