//! From a connection string to where we connect and how we prove who answers.
//!
//! The driver knows neither `verify-ca`, `verify-full` nor `sslrootcert`, so these are taken out of the string before it
//! reads it. What must stay true: no message repeats any part of the string but the name of a parameter, and a database on
//! another machine is verified unless the string says otherwise.

use std::error::Error;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, SslNegotiation};

use super::private;
use super::startup::Encryption;
use super::tls::TlsMode;
use super::{DatabaseConfig, DatabaseError, Pooler};

/// Where the database is, ready for the driver.
pub(super) struct Address {
    pub(super) postgres: Config,
    pub(super) encryption: Encryption,
    pub(super) tls: TlsMode,
    /// A file of certificate authorities to trust instead of the system's.
    pub(super) roots: Option<PathBuf>,
    /// The address without credentials.
    pub(super) place: String,
    /// Whether a host is, or may be, another machine.
    remote: bool,
}

/// A connection string parted into what the driver reads and what we read.
#[derive(Debug, PartialEq, Eq)]
struct Parted {
    string: String,
    ssl_mode: Option<String>,
    ssl_root_cert: Option<String>,
}

// === impl Address ===

impl Address {
    pub(super) fn parse(url: &str, config: &DatabaseConfig) -> Result<Self, DatabaseError> {
        let Parted { string, ssl_mode, ssl_root_cert } = Parted::from(url.trim());
        let mut postgres: Config = string.parse().map_err(|error| unreadable(&error))?;
        if postgres.get_hosts().is_empty() && postgres.get_hostaddrs().is_empty() {
            return Err(refuse("the database URL names no host"));
        }
        // `postgres://user:p@ss@host/` is read as the host `ss@host`, which would put half a password into messages.
        if postgres
            .get_hosts()
            .iter()
            .any(|host| matches!(host, Host::Tcp(name) if name.contains(['@', ':']) && name.parse::<std::net::IpAddr>().is_err()))
        {
            return Err(refuse(
                "the host of the database URL is not a host name: is a character of the password not percent-encoded?",
            ));
        }
        if config.pooler == Pooler::Transaction && postgres.get_options().is_some() {
            return Err(refuse("`options` in the database URL cannot pass a transaction pooler"));
        }

        if postgres.get_hosts().is_empty() {
            // TLS needs a name to verify, which can be an address.
            for address in postgres.get_hostaddrs().to_vec() {
                postgres.host(address.to_string());
            }
        }
        let sockets = postgres.get_hosts().iter().filter(|host| matches!(host, Host::Unix(_))).count();
        if sockets > 0 && (sockets < postgres.get_hosts().len() || !postgres.get_hostaddrs().is_empty()) {
            return Err(refuse("the database URL names both sockets and network addresses: name only one kind"));
        }

        let remote = is_remote(&postgres);
        let system_roots = ssl_root_cert.as_deref() == Some("system");
        let names_roots = ssl_root_cert.is_some();
        let roots = ssl_root_cert.filter(|_| !system_roots).map(PathBuf::from);
        let tls = match ssl_mode.as_deref().filter(|mode| !mode.is_empty()) {
            // libpq would prefer encryption here, which anyone who answers in the server's place can decline.
            None if remote || names_roots => TlsMode::VerifyFull,
            // `allow` would try without encryption first; there is no reason to prefer that.
            None | Some("prefer" | "allow") => TlsMode::Opportunistic,
            Some("disable") => TlsMode::Off,
            // As libpq: naming an authority asks for its verification, `system` for the name's as well.
            Some("require") if system_roots => TlsMode::VerifyFull,
            Some("require") if roots.is_some() => TlsMode::VerifyAuthority,
            Some("require") => TlsMode::Unverified,
            Some("verify-ca") => TlsMode::VerifyAuthority,
            Some("verify-full") => TlsMode::VerifyFull,
            Some(_) => {
                return Err(refuse(
                    "`sslmode` in the database URL is none of disable, allow, prefer, require, verify-ca, verify-full",
                ));
            }
        };
        // A socket is a file of this machine, and PostgreSQL speaks no TLS there.
        let tls = if sockets > 0 { TlsMode::Off } else { tls };
        let direct = postgres.get_ssl_negotiation() == SslNegotiation::Direct && sockets == 0;
        let encryption = match tls {
            TlsMode::Off | TlsMode::Opportunistic if direct => {
                return Err(refuse(
                    "`sslnegotiation=direct` in the database URL needs `sslmode=verify-full`, or at least `require`",
                ));
            }
            TlsMode::Off => Encryption::Off,
            TlsMode::Opportunistic => Encryption::Preferred,
            _ if direct => Encryption::Direct,
            _ => Encryption::Required,
        };
        let place = place(&postgres);
        delegate(&mut postgres);
        tune(&mut postgres, config, config.pooler);
        Ok(Self { postgres, encryption, tls, roots, place, remote })
    }

    pub(super) fn private(socket_dir: &Path, config: &DatabaseConfig) -> Self {
        let mut postgres = private::login(socket_dir);
        let place = place(&postgres);
        delegate(&mut postgres);
        tune(&mut postgres, config, Pooler::Direct);
        Self { postgres, encryption: Encryption::Off, tls: TlsMode::Off, roots: None, place, remote: false }
    }

    /// Logs what the way to a database on another machine does not protect against.
    pub(super) fn warn(&self) {
        let Some(weakness) = self.weakness() else { return };
        let place = &self.place;
        tracing::warn!(
            database.place = place,
            "the connection to the database at {place} {weakness}; set sslmode=verify-full in its URL, and sslrootcert if its \
             authority is not a public one"
        );
    }

    fn weakness(&self) -> Option<&'static str> {
        match self.tls {
            _ if !self.remote => None,
            TlsMode::VerifyFull => None,
            TlsMode::Off => Some("is not encrypted, and the server is not verified"),
            TlsMode::Opportunistic => Some("is encrypted only if whoever answers offers it, and the server is not verified"),
            TlsMode::Unverified => Some("is encrypted, but the server is not verified"),
            TlsMode::VerifyAuthority => Some("accepts any certificate of the authority, for whatever host it was issued"),
        }
    }
}

/// The user that a connection string names.
pub(super) fn user(url: &str) -> Option<String> {
    Parted::from(url.trim()).string.parse::<Config>().ok()?.get_user().map(str::to_owned)
}

/// Whether a connection may leave this machine. A name other than `localhost` may lead anywhere.
fn is_remote(postgres: &Config) -> bool {
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    let (hosts, addresses) = (postgres.get_hosts(), postgres.get_hostaddrs());
    // Where an address is given, the name is only for TLS.
    if !addresses.is_empty() {
        return !addresses.iter().all(|address| is_loopback(*address));
    }
    !hosts.iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name.parse().map_or_else(|_| name.eq_ignore_ascii_case("localhost"), is_loopback),
    })
}

/// Has the driver leave TLS to our connector, which it calls at once for every TCP connection when it is told that TLS is
/// required and direct. Sockets have no TLS, and the driver calls nothing there.
fn delegate(postgres: &mut Config) {
    if postgres.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) {
        postgres.ssl_mode(SslMode::Disable).ssl_negotiation(SslNegotiation::Postgres);
    } else {
        postgres.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    }
}

/// What every connection asks of the driver, unless the string said otherwise.
fn tune(postgres: &mut Config, config: &DatabaseConfig, pooler: Pooler) {
    if postgres.get_application_name().is_none() {
        // PgBouncer has tracked this parameter since long before it tracked others.
        postgres.application_name(config.application_name.as_str());
    }
    if postgres.get_connect_timeout().is_none() {
        // With several hosts, a silent first one must leave time for the others.
        let hosts = postgres.get_hosts().len().max(postgres.get_hostaddrs().len()).max(1);
        postgres.connect_timeout(config.create / u32::try_from(hosts).unwrap_or(u32::MAX));
    }
    // The driver's two hours outlast every firewall's memory of an idle connection; 30 s outlasts none we know of.
    if postgres.get_keepalives_idle().as_secs() == 2 * 60 * 60 {
        postgres.keepalives_idle(std::time::Duration::from_secs(30));
    }
    if pooler == Pooler::Direct {
        let ours = format!("-c statement_timeout={}", config.statement_timeout.as_millis());
        // The string's own options come last, so that they win.
        let options = match postgres.get_options() {
            Some(theirs) => format!("{ours} {theirs}"),
            None => ours,
        };
        postgres.options(options);
    }
}

fn place(postgres: &Config) -> String {
    let ports = postgres.get_ports();
    let port = |index: usize| ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
    let hosts: Vec<String> = if postgres.get_hosts().is_empty() {
        postgres.get_hostaddrs().iter().enumerate().map(|(index, address)| format!("{address}:{}", port(index))).collect()
    } else {
        let named = |(index, host): (usize, &Host)| match host {
            Host::Tcp(name) => format!("{name}:{}", port(index)),
            Host::Unix(directory) => directory.display().to_string(),
        };
        postgres.get_hosts().iter().enumerate().map(named).collect()
    };
    match postgres.get_dbname() {
        Some(name) => format!("{}/{name}", hosts.join(",")),
        None => hosts.join(","),
    }
}

fn refuse(message: &str) -> DatabaseError {
    DatabaseError::Configuration(message.to_owned())
}

fn unreadable(error: &tokio_postgres::Error) -> DatabaseError {
    // The driver names the parameter it did not understand, never the value. An unescaped `?` or `&` in a password can make
    // a piece of it look like the name of one, so only a name that looks like libpq's is repeated.
    let reason = error.source().map(ToString::to_string).unwrap_or_default();
    let named =
        reason.split('`').nth(1).filter(|name| name.starts_with("ssl") || name.ends_with("timeout") || LIBPQ.contains(name));
    match named {
        Some(name) => DatabaseError::Configuration(format!("the database URL's `{name}` is not supported or has a bad value")),
        None => refuse(
            "the database URL cannot be read: postgres://user:password@host:port/database, with percent-encoding, is expected",
        ),
    }
}

/// Parameters whose names are worth repeating when they are refused.
const LIBPQ: &[&str] = &[
    "channel_binding",
    "dbname",
    "gssencmode",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "krbsrvname",
    "load_balance_hosts",
    "options",
    "passfile",
    "pgbouncer",
    "port",
    "requiressl",
    "schema",
    "service",
    "target_session_attrs",
    "user",
];

// === impl Parted ===

impl Parted {
    fn from(string: &str) -> Self {
        let mut parted = Self { string: String::with_capacity(string.len()), ssl_mode: None, ssl_root_cert: None };
        if string.starts_with("postgres://") || string.starts_with("postgresql://") {
            parted.part_url(string);
        } else {
            parted.part_pairs(string);
        }
        parted
    }

    fn part_url(&mut self, url: &str) {
        // The driver ends the credentials at the first `@`, so a `?` before it belongs to a password.
        let credentials = url.find('@').filter(|at| url[*at..].contains('?')).unwrap_or(0);
        let Some(question) = url[credentials..].find('?').map(|at| at + credentials) else {
            url.clone_into(&mut self.string);
            return;
        };
        let (base, query) = (&url[..question], &url[question + 1..]);
        let rest: Vec<&str> = query
            .split('&')
            .filter(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                !self.keep(key, || percent_decoded(value))
            })
            .collect();
        self.string.push_str(base);
        if !rest.is_empty() {
            self.string.push('?');
            self.string.push_str(&rest.join("&"));
        }
    }

    /// Reads `key = value` pairs as libpq does: with spaces around the `=`, and values in quotes.
    fn part_pairs(&mut self, pairs: &str) {
        let mut rest = pairs;
        while let Some((key, after)) = rest.split_once('=') {
            let value = after.trim_start();
            let length = value_length(value);
            let end = rest.len() - value.len() + length;
            if !self.keep(key.trim(), || unquoted(&value[..length])) {
                self.string.push_str(&rest[..end]);
            }
            rest = &rest[end..];
        }
        self.string.push_str(rest);
    }

    /// Keeps a parameter that is ours to read, and says whether it was.
    fn keep(&mut self, key: &str, value: impl FnOnce() -> String) -> bool {
        match key {
            "sslmode" => self.ssl_mode = Some(value()),
            "sslrootcert" => self.ssl_root_cert = Some(value()),
            _ => return false,
        }
        true
    }
}

/// The bytes of the value at the beginning of `text`, quotes included.
fn value_length(text: &str) -> usize {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(usize::from(quoted)) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return at + 1,
            _ if !quoted && character.is_whitespace() => return at,
            _ => {}
        }
    }
    text.len()
}

/// A value without its quotes and escapes.
fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('\'').map_or(value, |value| value.strip_suffix('\'').unwrap_or(value));
    let mut escaped = false;
    inner
        .chars()
        .filter(|character| {
            escaped = *character == '\\' && !escaped;
            !escaped
        })
        .collect()
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, DatabaseError> {
        Address::parse(url, &DatabaseConfig::default())
    }

    fn tls(url: &str) -> (Encryption, TlsMode) {
        let address = parse(url).unwrap();
        (address.encryption, address.tls)
    }

    #[test]
    fn a_mode_that_is_named_means_what_it_means_to_libpq() {
        use Encryption::{Off, Preferred, Required};
        assert_eq!(tls("postgres://h/d?sslmode=prefer"), (Preferred, TlsMode::Opportunistic));
        assert_eq!(tls("postgres://h/d?sslmode=disable"), (Off, TlsMode::Off));
        assert_eq!(tls("postgres://h/d?sslmode=require"), (Required, TlsMode::Unverified));
        assert_eq!(tls("postgres://h/d?sslmode=require&sslrootcert=/ca.pem"), (Required, TlsMode::VerifyAuthority));
        assert_eq!(tls("postgres://h/d?sslrootcert=system&sslmode=require"), (Required, TlsMode::VerifyFull));
        assert_eq!(tls("postgres://h/d?sslmode=verify-ca"), (Required, TlsMode::VerifyAuthority));
        assert_eq!(tls("host=h dbname=d sslmode=verify-full"), (Required, TlsMode::VerifyFull));
        assert_eq!(tls("host = h sslmode = 'disable'"), (Off, TlsMode::Off));
        assert!(parse("postgres://h/d?sslmode=maybe").is_err());
    }

    #[test]
    fn without_a_mode_another_machine_is_verified_and_this_one_is_not() {
        for remote in [
            "postgres://db.internal/d",
            "postgres://10.0.0.5/d",
            "postgres://[2001:db8::1]/d",
            "postgres://localhost,db.internal/d",
            "postgres://localhost.example.com/d",
            "postgres://db.localhost/d",
            "postgres://db.internal/d?sslmode=",
            "host=localhost hostaddr=10.0.0.5 dbname=d",
            "hostaddr=10.0.0.5 dbname=d",
            "host=db.internal password='a sslmode=disable b'",
            "postgres://localhost/d?sslrootcert=/ca.pem",
            "postgres:///d?host=db.internal",
        ] {
            assert_eq!(tls(remote), (Encryption::Required, TlsMode::VerifyFull), "{remote}");
        }
        for local in [
            "postgres://localhost/d",
            "postgres://LOCALHOST/d",
            "postgres://127.0.0.2/d",
            "postgres://[::1]/d",
            "host=db.internal hostaddr=127.0.0.1",
            "hostaddr=::ffff:127.0.0.1",
        ] {
            assert_eq!(tls(local), (Encryption::Preferred, TlsMode::Opportunistic), "{local}");
        }
        for socket in ["postgres:///d?host=/run/postgresql", "host=/run/postgresql sslmode=verify-full"] {
            let address = parse(socket).unwrap();
            assert_eq!((address.encryption, address.tls), (Encryption::Off, TlsMode::Off), "{socket}");
            assert_eq!(address.postgres.get_ssl_mode(), SslMode::Disable, "{socket}");
        }
        assert!(parse("host=/run/postgresql,db.internal").is_err());
    }

    #[test]
    fn every_mode_weaker_than_verify_full_is_warned_about_on_another_machine_alone() {
        for mode in ["disable", "allow", "prefer", "require", "verify-ca"] {
            assert!(parse(&format!("postgres://h/d?sslmode={mode}")).unwrap().weakness().is_some(), "{mode}");
            assert!(parse(&format!("postgres://localhost/d?sslmode={mode}")).unwrap().weakness().is_none(), "{mode}");
        }
        for strong in
            ["postgres://h/d", "postgres://h/d?sslmode=verify-full", "postgres://h/d?sslmode=require&sslrootcert=system"]
        {
            assert!(parse(strong).unwrap().weakness().is_none(), "{strong}");
        }
    }

    #[test]
    fn direct_tls_is_required_tls() {
        assert_eq!(tls("postgres://h/d?sslnegotiation=direct"), (Encryption::Direct, TlsMode::VerifyFull));
        assert!(parse("postgres://h/d?sslnegotiation=direct&sslmode=prefer").is_err());
        assert!(parse("postgres://localhost/d?sslnegotiation=direct").is_err());
    }

    #[test]
    fn our_parameters_leave_the_string_and_the_others_stay() {
        let parted = Parted::from("postgres://u:p?w@h/d?a=1&sslrootcert=%2Fetc%2Fca+x.pem&sslmode=verify-full&b=2");
        assert_eq!(parted.string, "postgres://u:p?w@h/d?a=1&b=2");
        assert_eq!(parted.ssl_root_cert.as_deref(), Some("/etc/ca+x.pem"));
        assert_eq!(Parted::from("postgres://h/d?sslmode=require").string, "postgres://h/d");
        let pairs = Parted::from(r"password='a \'sslmode=disable b' sslmode='require' host=h\ sslrootcert=x");
        assert_eq!(pairs.string, r"password='a \'sslmode=disable b' host=h\ sslrootcert=x");
        assert_eq!(pairs.ssl_mode.as_deref(), Some("require"));
    }

    #[test]
    fn no_message_repeats_the_password() {
        for url in [
            "postgres://user:secret@word@host/d",
            "postgres://user:secret@host:port/d",
            "postgres://user:secret@host/d?secret=1",
            "postgres://user:secret@[::1/d",
            "postgres://user:secret@/d",
            "password=secret user=u",
            "secret",
        ] {
            let error = parse(url).err().expect(url);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn the_place_has_no_credentials() {
        assert_eq!(parse("postgres://u:secret@a:1,b:2/d").unwrap().place, "a:1,b:2/d");
    }

    #[test]
    fn a_transaction_pooler_gets_no_startup_options() {
        let config = DatabaseConfig { pooler: Pooler::Transaction, ..DatabaseConfig::default() };
        let address = Address::parse("postgres://h/d", &config).unwrap();
        assert_eq!(address.postgres.get_options(), None);
        assert!(Address::parse("postgres://h/d?options=-cjit%3Doff", &config).is_err());
        let direct = parse("postgres://h/d?options=-cjit%3Doff").unwrap();
        assert_eq!(direct.postgres.get_options(), Some("-c statement_timeout=10000 -cjit=off"));
    }

    #[test]
    fn debug_shows_no_url() {
        let config = DatabaseConfig { url: Some("postgres://u:secret@h/d".into()), ..DatabaseConfig::default() };
        assert!(!format!("{config:?}").contains("secret"));
    }
}
