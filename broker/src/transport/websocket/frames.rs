//! Takes the frames of a client apart, in place (RFC 6455, section 5).
//!
//! Pure: bytes in, payload and events out. MQTT does not care for the boundaries of frames and messages [MQTT-6.0.0-2],
//! so payload is handed on as it arrives, a half frame as well as three at once, and nothing is ever put together. A
//! connection that waits holds no buffer: at most the beginning of a header and of a control frame.
//!
//! Invariants: `header_len` is less than a whole header; `remaining` of a frame in progress is not 0 between two calls.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// Longest header: two bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;
/// Longest payload of a control frame (section 5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;

/// The decoder of one connection.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Limit on the payload of a frame, and on that of all frames of a message.
    message_bytes_max: u64,
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    frame: Option<FrameInProgress>,
    /// Payload so far of a message whose last frame has not come.
    unfinished_message_bytes: Option<u64>,
    /// Payload so far of a control frame.
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct FrameInProgress {
    control: Option<Control>,
    remaining: u64,
    /// The mask, turned so that its first byte is for the next byte of payload.
    mask: [u8; 4],
}

/// Something that wants an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A ping, with what the pong must carry (section 5.5.2).
    Ping(Vec<u8>),
    /// The client closes; with its reason if it gave one. Nothing behind it is looked at.
    Close(Option<CloseCode>),
}

/// A rule that the client has broken. The connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} ({code})")]
pub(super) struct Violation {
    /// What the close frame says (section 7.4.1).
    pub(super) code: CloseCode,
    pub(super) what: &'static str,
}

impl Violation {
    const fn protocol(what: &'static str) -> Self {
        Self {
            code: CloseCode::Protocol,
            what,
        }
    }
}

impl Decoder {
    pub(super) const fn new(message_bytes_max: usize) -> Self {
        Self {
            message_bytes_max: message_bytes_max as u64,
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            frame: None,
            unfinished_message_bytes: None,
            control: Vec::new(),
        }
    }

    /// Replaces the bytes of `buf` from `start` on, as they came from the client, by the payload in them.
    ///
    /// # Errors
    ///
    /// The first violation; the bytes from `start` on are then unspecified, and the decoder must not be used again.
    pub(super) fn decode(
        &mut self,
        buf: &mut Vec<u8>,
        start: usize,
        mut on_event: impl FnMut(Event),
    ) -> Result<(), Violation> {
        let (mut read, mut written) = (start, start);
        while read < buf.len() {
            if self.frame.is_none() {
                read += self.take_header(&buf[read..])?;
            }
            // Not the next turn: a frame without payload may end with the last byte there is.
            let Some(frame) = &mut self.frame else { continue };
            let length = buf.len() - read;
            let length = usize::try_from(frame.remaining).map_or(length, |remaining| remaining.min(length));
            let payload = read..read + length;
            unmask(&mut buf[payload.clone()], &mut frame.mask);
            frame.remaining -= length as u64;
            read += length;
            if frame.control.is_some() {
                self.control.extend_from_slice(&buf[payload]);
            } else {
                buf.copy_within(payload, written);
                written += length;
            }
            if let Some(event) = self.finish_frame()? {
                let is_close = matches!(event, Event::Close(_));
                on_event(event);
                if is_close {
                    break;
                }
            }
        }
        buf.truncate(written);
        Ok(())
    }

    /// Takes bytes of a header, up to its end; returns how many.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut taken = 0;
        while taken < bytes.len() && self.header_len < self.header_len_needed() {
            self.header[self.header_len] = bytes[taken];
            self.header_len += 1;
            taken += 1;
        }
        if self.header_len == self.header_len_needed() {
            let parsed = FrameHeader::parse(&mut Cursor::new(&self.header[..self.header_len]));
            let Ok(Some((header, length))) = parsed else {
                return Err(Violation::protocol("reserved opcode"));
            };
            self.header_len = 0;
            self.begin_frame(&header, length)?;
        }
        Ok(taken)
    }

    /// Length of the header, as far as it is known yet.
    fn header_len_needed(&self) -> usize {
        if self.header_len < 2 {
            return 2;
        }
        let length_bytes = match self.header[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_bytes = if self.header[1] & 0x80 != 0 { 4 } else { 0 };
        2 + length_bytes + mask_bytes
    }

    fn begin_frame(&mut self, header: &FrameHeader, length: u64) -> Result<(), Violation> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::protocol("a reserved bit is set"));
        }
        let mask = header
            .mask
            .ok_or(Violation::protocol("a frame of a client must be masked"))?;
        let control = match header.opcode {
            OpCode::Data(kind) => {
                self.check_data_frame(kind, header.is_final, length)?;
                None
            }
            OpCode::Control(_) if !header.is_final => {
                return Err(Violation::protocol("a control frame in fragments"));
            }
            OpCode::Control(_) if length > CONTROL_BYTES_MAX as u64 => {
                return Err(Violation::protocol("a control frame of more than 125 bytes"));
            }
            OpCode::Control(kind) => Some(kind),
        };
        self.frame = Some(FrameInProgress {
            control,
            remaining: length,
            mask,
        });
        Ok(())
    }

    fn check_data_frame(&mut self, kind: Data, is_final: bool, length: u64) -> Result<(), Violation> {
        let before = match (kind, self.unfinished_message_bytes) {
            (Data::Binary, None) => 0,
            (Data::Continue, Some(before)) => before,
            (Data::Text, None) => {
                // [MQTT-6.0.0-1]
                return Err(Violation {
                    code: CloseCode::Unsupported,
                    what: "MQTT needs binary frames",
                });
            }
            (Data::Continue, None) => return Err(Violation::protocol("a continuation of nothing")),
            (_, Some(_)) => return Err(Violation::protocol("a new message inside another")),
            (Data::Reserved(_), None) => return Err(Violation::protocol("reserved opcode")),
        };
        let total = before.saturating_add(length);
        if total > self.message_bytes_max {
            return Err(Violation {
                code: CloseCode::Size,
                what: "the message is too long",
            });
        }
        self.unfinished_message_bytes = (!is_final).then_some(total);
        Ok(())
    }

    /// Ends the frame in progress if all of its payload has come.
    fn finish_frame(&mut self) -> Result<Option<Event>, Violation> {
        let Some(frame) = self.frame.take_if(|frame| frame.remaining == 0) else {
            return Ok(None);
        };
        let Some(kind) = frame.control else {
            return Ok(None);
        };
        let payload = std::mem::take(&mut self.control);
        match kind {
            Control::Ping => Ok(Some(Event::Ping(payload))),
            Control::Close => close_code(&payload).map(|code| Some(Event::Close(code))),
            Control::Pong | Control::Reserved(_) => Ok(None),
        }
    }
}

/// The payload of a close frame: nothing, or a code and a text (section 5.5.1).
fn close_code(payload: &[u8]) -> Result<Option<CloseCode>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(Violation::protocol("a close frame of one byte"))
        };
    };
    let code = CloseCode::from(u16::from_be_bytes(*code));
    if !code.is_allowed() {
        return Err(Violation::protocol("a close code that must not be sent"));
    }
    if str::from_utf8(reason).is_err() {
        return Err(Violation {
            code: CloseCode::Invalid,
            what: "the reason for closing is not UTF-8",
        });
    }
    Ok(Some(code))
}

/// Takes the mask off (section 5.3) and turns it for the bytes to come.
fn unmask(payload: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        if let Some(bytes) = word.first_chunk_mut() {
            *bytes = (u64::from_ne_bytes(*bytes) ^ wide).to_ne_bytes();
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    mask.rotate_left(payload.len() % 4);
}

#[cfg(test)]
mod tests;
