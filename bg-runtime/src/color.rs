//! Blue or green: the slot a release runs in. A color says nothing about what is live.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One of the two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// The first slot; what a process is when nobody says otherwise.
    Blue,
    /// The second slot.
    Green,
}

impl Color {
    /// The word used in logs, headers, labels and manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }

    /// The slot the next release goes to while this one is live.
    pub const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no color.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no color: say blue or green")]
pub struct UnknownColor(String);

impl FromStr for Color {
    type Err = UnknownColor;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "blue" => Ok(Self::Blue),
            "green" => Ok(Self::Green),
            _ => Err(UnknownColor(word.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_color_is_read_as_it_is_written() {
        for color in [Color::Blue, Color::Green] {
            assert_eq!(color.to_string().parse::<Color>().unwrap(), color);
            assert_eq!(color.other().other(), color);
            assert_eq!(serde_json_word(color), color.as_str());
        }
        assert_eq!("red".parse::<Color>().unwrap_err().to_string(), "`red` is no color: say blue or green");
    }

    fn serde_json_word(color: Color) -> String {
        use serde::de::{
            IntoDeserializer,
            value::{Error, StrDeserializer},
        };
        let word: StrDeserializer<'_, Error> = color.as_str().into_deserializer();
        Color::deserialize(word).unwrap().to_string()
    }
}
