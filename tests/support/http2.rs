//! HTTP/2 by hand, for what no client library does: windows that stay closed, streams that are reset as soon as they are open,
//! headers without an end.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The kinds of frames that tests send or look for (RFC 9113, 6).
pub const DATA: u8 = 0;
/// The head of a request or an answer.
pub const HEADERS: u8 = 1;
/// The end of one stream.
pub const RST_STREAM: u8 = 3;
/// What each side may do.
pub const SETTINGS: u8 = 4;
/// A question whether the other side is there.
pub const PING: u8 = 6;
/// The end of a connection, announced.
pub const GOAWAY: u8 = 7;
/// Room for further bytes.
pub const WINDOW_UPDATE: u8 = 8;
/// More of a head.
pub const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
/// The flag of a head that is complete.
pub const END_HEADERS: u8 = 4;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// The setting that says how many streams a client may have open.
pub const MAX_CONCURRENT_STREAMS: u16 = 3;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: u8,
    /// The bits that its kind gives a meaning, such as END_STREAM.
    pub flags: u8,
    /// The stream it belongs to; 0 is the connection.
    pub stream: u32,
    /// What it holds.
    pub payload: Vec<u8>,
}

/// A connection on which this side decides about every frame.
#[derive(Debug)]
pub struct Http2 {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    address: SocketAddr,
    next: u32,
}

// === impl Frame ===

impl Frame {
    /// Whether it is the last one of its stream.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM > 0
    }

    /// The bytes that go over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a frame is small").to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend_from_slice(&[self.kind, self.flags]);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

// === impl Http2 ===

impl Http2 {
    /// Connects without an upgrade, and grants each stream so many bytes.
    pub async fn open(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server accepts connections");
        let (read, write) = stream.into_split();
        let mut connection = Self { read, write, address, next: 1 };
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        settings.extend_from_slice(&window.to_be_bytes());
        connection.frame(SETTINGS, 0, 0, &settings).await;
        connection
    }

    /// Sends bytes as they are; whether the server still takes them.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.write.write_all(bytes).await.is_ok()
    }

    /// Sends a frame; whether the server still takes it.
    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.send(&Frame { kind, flags, stream, payload: payload.to_vec() }.bytes()).await
    }

    /// The number of the next stream.
    pub fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Sends a GET, and gives its stream.
    pub async fn get(&mut self, path: &str) -> u32 {
        let (stream, head) = (self.stream(), self.head("GET", path, &[]));
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &head).await;
        stream
    }

    /// Sends a message to `/mcp` with further headers, and gives its stream.
    pub async fn message(&mut self, body: &str, headers: &[(&str, &str)]) -> u32 {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        let (stream, head) = (self.stream(), self.head("POST", "/mcp", &all));
        self.frame(HEADERS, END_HEADERS, stream, &head).await;
        self.frame(DATA, END_STREAM, stream, body.as_bytes()).await;
        stream
    }

    /// The head of a request, every field of it written out (RFC 7541, 6.2.2).
    pub fn head(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let authority = self.address.to_string();
        let pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", &authority)];
        pseudo.iter().chain(headers).flat_map(|(name, value)| field(name, value)).collect()
    }

    /// Grants a stream, or with 0 the connection, so many further bytes; whether the server still takes it.
    pub async fn grant(&mut self, stream: u32, bytes: u32) -> bool {
        self.frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes()).await
    }

    /// Reads the next frame; nothing at the end of the connection. Settings and pings are acknowledged.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        self.read.read_exact(&mut payload).await.ok()?;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0 {
            let payload = if frame.kind == PING { frame.payload.clone() } else { Vec::new() };
            self.frame(frame.kind, ACK, 0, &payload).await;
        }
        Some(frame)
    }

    /// Reads on until a frame of this kind comes.
    pub async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("the connection ended before a frame of kind {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads a stream to its end, and gives what came of its body.
    pub async fn body(&mut self, stream: u32) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let frame = self.next().await.expect("the connection lasts as long as its streams");
            if frame.stream != stream {
                continue;
            }
            assert_ne!(frame.kind, RST_STREAM, "the stream was reset: {frame:?}");
            if frame.kind == DATA {
                body.extend_from_slice(&frame.payload);
            }
            if frame.ends_stream() {
                return body;
            }
        }
    }

    /// Reads whatever comes until the server closes, and gives the frames.
    pub async fn to_end(&mut self, within: Duration) -> Vec<Frame> {
        let mut frames = Vec::new();
        let all = async {
            while let Some(frame) = self.next().await {
                frames.push(frame);
            }
        };
        let ended = tokio::time::timeout(within, all).await;
        assert!(ended.is_ok(), "the server did not close within {within:?}");
        frames
    }
}

/// A field of a head that no table remembers.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        // The length in an integer with a prefix of seven bits (RFC 7541, 5.1).
        match u8::try_from(text.len()) {
            Ok(length) if length < 127 => bytes.push(length),
            _ => {
                bytes.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    bytes.push((rest % 128) as u8 | 128);
                    rest /= 128;
                }
                bytes.push(rest as u8);
            }
        }
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}
