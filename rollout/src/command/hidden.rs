//! What is read from the command line or its variable and repeated by nothing: clap would put a value that it cannot use into
//! its message, and that of a token or a webhook is a secret even when it is not right.

use std::ffi::OsStr;

use clap::{
    Arg, Command,
    builder::TypedValueParser,
    error::{Error, ErrorKind},
};

/// Reads a value with this function, whose error repeats nothing of it.
#[derive(Clone, Copy)]
pub(super) struct Hidden<T>(pub(super) fn(&str) -> Result<T, String>);

// === impl Hidden ===

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Hidden<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let Self(read) = self;
        let read = value.to_str().ok_or_else(|| "say it in UTF-8".to_owned()).and_then(read);
        read.map_err(|words| {
            let name = argument.map(ToString::to_string).unwrap_or_default();
            Error::raw(ErrorKind::ValueValidation, format!("the value of {name} cannot be used: {words}\n")).with_cmd(command)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(word: &str) -> Result<u8, String> {
        word.parse().map_err(|_| "say a small number".to_owned())
    }

    #[test]
    fn a_value_that_cannot_be_used_is_not_repeated() {
        let command = || Command::new("x").arg(Arg::new("pin").long("pin").value_parser(Hidden(number)));
        let read = command().try_get_matches_from(["x", "--pin", "42"]).unwrap();
        assert_eq!(read.get_one::<u8>("pin"), Some(&42));
        let wrong = command().try_get_matches_from(["x", "--pin", "hunter2"]).unwrap_err();
        assert_eq!(wrong.exit_code(), 2);
        let words = wrong.to_string();
        assert!(words.contains("--pin") && words.contains("say a small number") && !words.contains("hunter2"), "{words}");
    }
}
