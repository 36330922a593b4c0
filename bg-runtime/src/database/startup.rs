//! The start of a connection: TLS negotiation, and a watch over how the server asks for the password.
//!
//! Left alone, the driver answers every request for a password, and continues without TLS where that is allowed. What must
//! stay true: over TCP a clear-text password is sent only through TLS that the configuration requires.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Whether a connection uses TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Never.
    Off,
    /// If the server offers it. Anyone who answers in the server's place can decline it.
    Preferred,
    /// Always, after an `SSLRequest`.
    Required,
    /// Always, from the first byte (`sslnegotiation=direct`).
    Direct,
}

/// Starts connections. The driver is configured to call it for every TCP connection, whether TLS is used or not.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) tls: MakeRustlsConnect,
    pub(super) encryption: Encryption,
}

type Rustls = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
type Encrypted = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// Starts one connection.
pub(super) struct Startup {
    tls: Rustls,
    encryption: Encryption,
}

/// A started connection.
pub(super) struct Wire {
    transport: Transport,
    /// `None` where a clear-text password may be sent, and once authentication is over.
    watch: Option<Watch>,
}

enum Transport {
    Plain(Socket),
    Tls(Box<Encrypted>),
}

/// Reads along in the server's messages until authentication is over.
#[derive(Debug, Default)]
struct Watch {
    /// The type and the length of a message, and for an authentication request its code.
    head: [u8; 9],
    /// Bytes of `head` that have arrived.
    filled: usize,
    /// Bytes of the current message that are still to come and do not matter.
    skip: usize,
}

/// `SSLRequest`: its length and its code.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

const CLEARTEXT: &str = "the server asks for the password in clear text, which is only sent over TLS that the URL requires: \
     set sslmode=verify-full, or have the server use scram-sha-256";

// === impl Connector ===

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Wire;
    type TlsConnect = Startup;
    type Error = Infallible;

    fn make_tls_connect(&mut self, hostname: &str) -> Result<Startup, Infallible> {
        let tls = MakeTlsConnect::<Socket>::make_tls_connect(&mut self.tls, hostname)?;
        Ok(Startup { tls, encryption: self.encryption })
    }
}

// === impl Startup ===

impl TlsConnect<Socket> for Startup {
    type Stream = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(self.start(socket))
    }
}

impl Startup {
    async fn start(self, mut socket: Socket) -> io::Result<Wire> {
        let offered = match self.encryption {
            Encryption::Off => false,
            Encryption::Direct => true,
            Encryption::Preferred | Encryption::Required => {
                socket.write_all(&SSL_REQUEST).await?;
                match socket.read_u8().await? {
                    b'S' => true,
                    b'N' if self.encryption == Encryption::Preferred => false,
                    b'N' => return Err(io::Error::other("the server does not offer TLS, which the URL requires")),
                    _ => return Err(io::Error::other("the server did not answer the request for TLS: is it a PostgreSQL?")),
                }
            }
        };
        let required = matches!(self.encryption, Encryption::Required | Encryption::Direct);
        let transport =
            if offered { Transport::Tls(Box::new(self.tls.connect(socket).await?)) } else { Transport::Plain(socket) };
        // TLS that was only preferred proves nothing: whoever asks for the password has offered it.
        Ok(Wire { transport, watch: (!required).then(Watch::default) })
    }
}

// === impl Watch ===

impl Watch {
    /// Reads the next bytes from the server. Returns whether authentication is over, and an error for a request that must
    /// not be answered.
    fn read(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            bytes = &bytes[skipped..];
            self.skip -= skipped;
            let wanted = if self.head[0] == b'R' && self.filled > 0 { 9 } else { 5 };
            let taken = (wanted - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            let [kind, a, b, c, d, code @ ..] = self.head;
            match (kind, self.filled) {
                (b'R', 9) => match u32::from_be_bytes(code) {
                    0 => return Ok(true),
                    3 => return Err(io::Error::new(io::ErrorKind::PermissionDenied, CLEARTEXT)),
                    _ => {}
                },
                (b'R', _) | (_, ..5) => continue,
                _ => {}
            }
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            // The length counts itself and not the type.
            self.skip = length.saturating_add(1).saturating_sub(self.filled);
            self.filled = 0;
        }
        Ok(false)
    }
}

// === impl Wire ===

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let before = buffer.filled().len();
        ready!(match &mut wire.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
        })?;
        if let Some(watch) = &mut wire.watch {
            match watch.read(&buffer.filled()[before..]) {
                Ok(false) => {}
                Ok(true) => wire.watch = None,
                Err(refusal) => {
                    buffer.set_filled(before);
                    return Poll::Ready(Err(refusal));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.transport {
            Transport::Plain(_) => ChannelBinding::none(),
            Transport::Tls(stream) => stream.channel_binding(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind], &length.to_be_bytes()[..], body].concat()
    }

    /// The outcome for a server's bytes, in pieces of every size.
    fn outcomes(bytes: &[u8]) -> Vec<Result<bool, io::ErrorKind>> {
        let outcome = |size| {
            let mut watch = Watch::default();
            for piece in bytes.chunks(size) {
                match watch.read(piece) {
                    Ok(false) => {}
                    other => return other.map_err(|error| error.kind()),
                }
            }
            Ok(false)
        };
        (1..=bytes.len()).map(outcome).collect()
    }

    #[test]
    fn a_request_for_a_clear_text_password_is_seen_however_it_is_cut() {
        let notice = message(b'N', b"SNOTICE\0\0");
        let requests =
            [message(b'R', &3_u32.to_be_bytes()), [notice.clone(), message(b'R', &3_u32.to_be_bytes()), notice.clone()].concat()];
        for request in requests {
            assert!(outcomes(&request).iter().all(|outcome| *outcome == Err(io::ErrorKind::PermissionDenied)), "{request:?}");
        }
    }

    #[test]
    fn other_ways_to_authenticate_pass_and_end_the_watch() {
        let scram = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
        let md5 = message(b'R', b"\0\0\0\x05salt");
        assert!(outcomes(&[message(b'N', b""), scram.clone(), md5].concat()).iter().all(|outcome| *outcome == Ok(false)));
        // What follows is data, whatever it looks like.
        let over = [scram, message(b'R', &[0; 4]), message(b'R', &3_u32.to_be_bytes())].concat();
        assert!(outcomes(&over).iter().all(|outcome| *outcome == Ok(true)));
    }
}
