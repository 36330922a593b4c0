//! How a file is read as the bytes of an HTTP/2 client.

/// What a client says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
/// The largest frame that a server takes unless it says otherwise.
const LARGEST: usize = 16 * 1024;

/// Reads a file as the frames that it describes: a byte for the kind, one for the flags, one for the stream, one for how many
/// bytes follow. A length of 255 takes the rest of the file as it is, whatever it says of itself; a head of no bytes stands for
/// one that asks for something.
pub fn read(file: &[u8]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    let Some((window, mut rest)) = file.split_first() else { return out };
    // The first byte is the window of each stream; 255 is a wide one.
    let window = if *window == 255 { 1 << 20 } else { u32::from(*window) };
    let mut settings = vec![0, 4];
    settings.extend_from_slice(&window.to_be_bytes());
    push(&mut out, SETTINGS, 0, 0, &settings);
    while let [kind, flags, stream, length, after @ ..] = rest {
        if *length == 255 {
            out.extend_from_slice(after);
            break;
        }
        let (payload, next) = after.split_at(after.len().min(usize::from(*length)));
        let payload = if *kind == HEADERS && payload.is_empty() { head(*stream) } else { payload.to_vec() };
        push(&mut out, *kind, *flags, (*stream).into(), &payload);
        rest = next;
    }
    out
}

/// Whether bytes are whole frames, except that the last one may have been cut off.
pub fn are_frames(mut bytes: &[u8]) -> bool {
    while let [a, b, c, kind, _, stream, ..] = bytes {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        if length > LARGEST || *kind > 9 || *stream > 127 {
            return false;
        }
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    true
}

fn push(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The head of a request, by the number of its stream: to `/mcp`, to a probe, to nothing.
fn head(stream: u8) -> Vec<u8> {
    // `:scheme http` and `:method GET` or `POST` stand in the static table (RFC 7541, Appendix A).
    let (method, path) = match stream % 6 {
        1 => (0x83, "/mcp"),
        3 => (0x82, "/health"),
        _ => (0x82, "/nothing"),
    };
    let mut head = vec![method, 0x86];
    for (index, text) in [(0x04, path), (0x01, "localhost")] {
        head.extend_from_slice(&[index, u8::try_from(text.len()).unwrap_or(0)]);
        head.extend_from_slice(text.as_bytes());
    }
    head
}
