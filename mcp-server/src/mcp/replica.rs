//! How replicas prove to each other that they belong to one deployment, before one of them sends another a caller's token.
//!
//! Both colors have a key that the database does not have. What must stay true: a proof is good for one nonce, one address and
//! one build alone, so that nobody can pass on a proof that another replica gave, and whoever writes to the database learns
//! no token.

use std::{fmt, fs, io, io::Write as _, os::unix::fs::OpenOptionsExt, path::Path, str::FromStr, sync::Arc};

use bg_runtime::Secret;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use uuid::Uuid;

/// Where a replica is asked for its proof. A release that knows no proofs has nothing there.
pub(crate) const PATH: &str = "/.well-known/mcp-replica";

/// Names the process that a message is handed to: a build, or an instance. From anyone who does not prove to be a replica it
/// means nothing.
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("mcp-forwarded-for-build");
/// Proves who sends a message with [`FORWARDED`], or a request to [`PATH`]: `NONCE.MAC`, in hexadecimal digits.
pub(crate) const PROOF: HeaderName = HeaderName::from_static("mcp-replica-proof");

const MIN_KEY_LENGTH: usize = 32;
const NONCE_LENGTH: usize = 16;

/// `FORWARD_KEY`: a secret of 32 bytes or more, the same in both colors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardKey(Secret);

/// This replica, as it proves itself to the others and checks them.
#[derive(Clone)]
pub(crate) struct Replica {
    key: hmac::Key,
    build: Arc<str>,
    instance: Arc<str>,
    /// Where the others reach it.
    address: Option<Arc<str>>,
}

/// What a proof is for. No proof of one kind is one of another.
#[derive(Clone, Copy)]
enum Purpose {
    /// A replica asks another one for its proof.
    Ask,
    /// It answers.
    Answer,
    /// It hands a message on.
    Message,
}

pub(crate) type Nonce = [u8; NONCE_LENGTH];

// === impl ForwardKey ===

impl ForwardKey {
    /// The key in a file, which the first process makes. For processes that share a directory that is closed to others.
    pub(crate) fn kept(file: &Path) -> io::Result<Self> {
        if let Some(key) = Self::read(file)? {
            return Ok(key);
        }
        let secret = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()].map(|part| part.simple().to_string()).concat();
        let new = file.with_extension(Uuid::new_v4().simple().to_string());
        let mut written = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        written.write_all(secret.as_bytes())?;
        // Of several processes that start at once one makes the key, whole; the others read it.
        let made = fs::hard_link(&new, file);
        fs::remove_file(&new)?;
        match made {
            Err(failure) if failure.kind() != io::ErrorKind::AlreadyExists => Err(failure),
            _ => Self::read(file)?.ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }

    fn read(file: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(file) {
            Ok(text) => text.trim().parse().map(Some).map_err(|wrong: String| io::Error::new(io::ErrorKind::InvalidData, wrong)),
            Err(failure) if failure.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

impl FromStr for ForwardKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() < MIN_KEY_LENGTH {
            return Err(format!("a secret of {MIN_KEY_LENGTH} bytes or more is needed, the same in both colors"));
        }
        Ok(Self(text.into()))
    }
}

// === impl Replica ===

impl Replica {
    /// `address` is where the others reach this one, exactly as it is written to the database.
    pub(crate) fn new(key: &ForwardKey, build: String, instance: &str, address: Option<&str>) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.0.expose().as_bytes()),
            build: build.into(),
            instance: instance.into(),
            address: address.map(Into::into),
        }
    }

    /// Asks whoever listens at `address` to prove that it is `to`: the headers of a request to [`PATH`].
    pub(crate) fn ask(&self, to: &str, address: &str) -> Option<(Nonce, HeaderMap)> {
        let nonce = nonce();
        let proof = self.prove(Purpose::Ask, nonce, &[to, address]);
        let headers = [(FORWARDED, HeaderValue::try_from(to).ok()?), (PROOF, proof)];
        Some((nonce, HeaderMap::from_iter(headers)))
    }

    /// The proof that this replica is the one that is asked for. Nobody but another replica gets one.
    pub(crate) fn answer(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let (to, address) = (headers.get(FORWARDED)?.to_str().ok()?, self.address.as_deref()?);
        let nonce = self.verify(Purpose::Ask, headers.get(PROOF)?, &[to, address])?;
        self.is(to).then(|| self.prove(Purpose::Answer, nonce, &[to, &self.build, address]))
    }

    /// Whether an answer to [`ask`](Self::ask) proves that a replica of `build` is `to` and listens at `address`.
    pub(crate) fn is_proven(&self, answer: &HeaderMap, nonce: Nonce, to: &str, build: &str, address: &str) -> bool {
        let proof = answer.get(PROOF);
        proof.and_then(|proof| self.verify(Purpose::Answer, proof, &[to, build, address])) == Some(nonce)
    }

    /// Marks a message that is handed to the replica at `address`. The mark is good with its caller's token alone.
    pub(crate) fn mark(&self, headers: &mut HeaderMap, to: &str, address: &str) -> Option<()> {
        let proof = self.prove(Purpose::Message, nonce(), &[to, address, authorization(headers)]);
        headers.insert(FORWARDED, HeaderValue::try_from(to).ok()?);
        headers.insert(PROOF, proof);
        Some(())
    }

    /// Whether another replica handed a message on, and to us. `None` when the sender does not prove to be one.
    pub(crate) fn is_marked(&self, headers: &HeaderMap) -> Option<bool> {
        let (to, address) = (headers.get(FORWARDED)?.to_str().ok()?, self.address.as_deref()?);
        self.verify(Purpose::Message, headers.get(PROOF)?, &[to, address, authorization(headers)])?;
        Some(self.is(to))
    }

    fn is(&self, to: &str) -> bool {
        *to == *self.build || *to == *self.instance
    }

    fn prove(&self, purpose: Purpose, nonce: Nonce, parts: &[&str]) -> HeaderValue {
        let tag = hmac::sign(&self.key, &message(purpose, nonce, parts));
        HeaderValue::try_from(format!("{}.{}", hex(&nonce), hex(tag.as_ref()))).expect("hexadecimal digits fit into a header")
    }

    /// The nonce of a proof, if it is one.
    fn verify(&self, purpose: Purpose, proof: &HeaderValue, parts: &[&str]) -> Option<Nonce> {
        let (nonce, tag) = proof.to_str().ok()?.split_once('.')?;
        let (nonce, tag): (Nonce, [u8; 32]) = (unhex(nonce)?, unhex(tag)?);
        hmac::verify(&self.key, &message(purpose, nonce, parts), &tag).is_ok().then_some(nonce)
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("instance", &self.instance).field("address", &self.address).finish_non_exhaustive()
    }
}

fn nonce() -> Nonce {
    let mut nonce = [0; NONCE_LENGTH];
    SystemRandom::new().fill(&mut nonce).expect("the operating system has random numbers");
    nonce
}

fn authorization(headers: &HeaderMap) -> &str {
    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What is signed: each part with its length, so that no two lists of parts look alike.
fn message(purpose: Purpose, nonce: Nonce, parts: &[&str]) -> Vec<u8> {
    let purpose: &[u8] = match purpose {
        Purpose::Ask => b"mcp-server replica ask",
        Purpose::Answer => b"mcp-server replica answer",
        Purpose::Message => b"mcp-server replica message",
    };
    let mut message = Vec::new();
    for part in [purpose, &nonce].into_iter().chain(parts.iter().map(|part| part.as_bytes())) {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let mut bytes = [0; N];
    if digits.len() != N * 2 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn replica(key: u8, build: &str, address: &str) -> Replica {
        let key = char::from(key).to_string().repeat(32).parse().unwrap();
        Replica::new(&key, build.to_owned(), "instance", Some(address))
    }

    /// Whether `asking` believes the answer of `asked`.
    fn believes(asking: &Replica, asked: &Replica, to: &str, build: &str, address: &str) -> bool {
        let (nonce, question) = asking.ask(to, address).unwrap();
        let Some(answer) = asked.answer(&question) else { return false };
        asking.is_proven(&HeaderMap::from_iter([(PROOF, answer)]), nonce, to, build, address)
    }

    #[test]
    fn a_replica_proves_its_build_and_its_address_and_nothing_else() {
        let (blue, green) = (replica(b'k', "1+a", "10.0.0.1:80"), replica(b'k', "2+b", "10.0.0.2:80"));
        assert!(believes(&blue, &green, "2+b", "2+b", "10.0.0.2:80"));
        assert!(believes(&blue, &green, "instance", "2+b", "10.0.0.2:80"));
        assert!(!believes(&blue, &green, "instance", "3+c", "10.0.0.2:80"), "another build than it says");
        assert!(!believes(&blue, &green, "3+c", "3+c", "10.0.0.2:80"), "another build than is meant");
        assert!(!believes(&blue, &green, "2+b", "2+b", "10.0.0.66:80"), "somebody else passes the question on");
        let stranger = replica(b'x', "2+b", "10.0.0.2:80");
        assert!(!believes(&blue, &stranger, "2+b", "2+b", "10.0.0.2:80"), "another key");
        let nobody = Replica { address: None, ..green.clone() };
        assert!(!believes(&blue, &nobody, "2+b", "2+b", "10.0.0.2:80"));
    }

    #[test]
    fn an_answer_is_good_for_its_question_alone() {
        let (blue, green) = (replica(b'k', "1+a", "10.0.0.1:80"), replica(b'k', "2+b", "10.0.0.2:80"));
        let (_, question) = blue.ask("2+b", "10.0.0.2:80").unwrap();
        let earlier = HeaderMap::from_iter([(PROOF, green.answer(&question).unwrap())]);
        let (nonce, question) = blue.ask("2+b", "10.0.0.2:80").unwrap();
        assert!(!blue.is_proven(&earlier, nonce, "2+b", "2+b", "10.0.0.2:80"), "a proof from before");
        assert!(!blue.is_proven(&question, nonce, "2+b", "2+b", "10.0.0.2:80"), "the question itself");
        assert!(!blue.is_proven(&HeaderMap::new(), nonce, "2+b", "2+b", "10.0.0.2:80"));
        assert!(green.is_marked(&question).is_none(), "a question is no message");
    }

    #[test]
    fn a_mark_is_a_replicas_and_its_callers() {
        let (blue, green) = (replica(b'k', "1+a", "10.0.0.1:80"), replica(b'k', "2+b", "10.0.0.2:80"));
        let mut headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer ada"))]);
        blue.mark(&mut headers, "2+b", "10.0.0.2:80").unwrap();
        assert_eq!(green.is_marked(&headers), Some(true));
        assert_eq!(replica(b'k', "3+c", "10.0.0.2:80").is_marked(&headers), Some(false), "the address is another build's by now");
        assert_eq!(blue.is_marked(&headers), None, "it was for another address");
        assert_eq!(replica(b'x', "2+b", "10.0.0.2:80").is_marked(&headers), None);
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer bob"));
        assert_eq!(green.is_marked(&headers), None, "it was for another caller");
        for nonsense in ["", ".", "00.00", "é"] {
            headers.insert(PROOF, HeaderValue::from_bytes(nonsense.as_bytes()).unwrap());
            assert_eq!(green.is_marked(&headers), None, "{nonsense}");
        }
    }

    #[test]
    fn processes_that_share_a_directory_share_a_key_that_only_they_can_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = std::env::temp_dir().join(format!("forward-key-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let file = directory.join("forward.key");
        let keys = std::thread::scope(|scope| {
            [(); 4].map(|()| scope.spawn(|| ForwardKey::kept(&file))).map(|thread| thread.join().unwrap())
        });
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        fs::remove_dir_all(&directory).unwrap();
        let first = keys[0].as_ref().unwrap();
        assert!(keys.iter().all(|key| key.as_ref().is_ok_and(|key| key == first)));
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn a_short_key_is_refused() {
        assert!("k".repeat(31).parse::<ForwardKey>().is_err());
        assert!("k".repeat(32).parse::<ForwardKey>().is_ok());
    }
}
