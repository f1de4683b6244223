//! Protocol buffers in frames of gRPC, as `tonic_prost` has them, with two differences.
//!
//! Buffers are as long as the frames: one that grows as a large frame is written ends up twice as long.
//!
//! What is decoded shares the memory of the buffer that the frame came in only if it is most of that: the log keeps entries
//! in memory for a while, and one of a hundred bytes must not keep the 8 MiB that came beside or before it.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::beside::{self, LONG_BYTES};

/// Bytes of a field from which on it may share the buffer, if it is also most of it.
const SHARED_BYTES_MIN: usize = 256 << 10;

/// Encodes `T`, decodes `U`.
#[derive(Debug)]
pub(crate) struct FrameCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for FrameCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for FrameCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = FrameEncoder<T>;
    type Decoder = FrameDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        FrameEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        FrameDecoder {
            longest: 0,
            decoded: PhantomData,
        }
    }
}

/// Encodes `T` into a buffer of its length.
#[derive(Debug)]
pub(crate) struct FrameEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for FrameEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // What `Message::encode` does, which looks at the length too, and only compares it.
        let bytes = item.encoded_len();
        beside::runtime_if(bytes >= LONG_BYTES, || {
            buffer.reserve(bytes);
            item.encode_raw(buffer);
        });
        Ok(())
    }
}

/// Decodes `T`, whose fields keep little more memory than they need.
#[derive(Debug)]
pub(crate) struct FrameDecoder<T> {
    /// Bytes of the longest frame so far: the buffer may be as long, whatever it holds.
    longest: usize,
    decoded: PhantomData<T>,
}

impl<T: Message + Default> Decoder for FrameDecoder<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        self.longest = self.longest.max(buffer.remaining());
        decode(buffer, self.longest)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

fn decode<T: Message + Default>(frame: &mut impl Buf, buffer_bytes: usize) -> Result<T, prost::DecodeError> {
    T::decode(FrameReader { frame, buffer_bytes })
}

/// Reads a frame; byte fields that are not most of its buffer are copied.
struct FrameReader<'a, B> {
    frame: &'a mut B,
    buffer_bytes: usize,
}

impl<B: Buf> Buf for FrameReader<'_, B> {
    fn remaining(&self) -> usize {
        self.frame.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.frame.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.frame.advance(count);
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        if len >= SHARED_BYTES_MIN && len >= self.buffer_bytes / 2 {
            return self.frame.copy_to_bytes(len);
        }
        let mut copy = BytesMut::with_capacity(len);
        copy.put(self.frame.take(len));
        copy.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::wire::AnswerBody;
    use crate::raft::wire::proto::{Answer, AnswerFrame};

    fn frame_of(bodies: &[usize]) -> BytesMut {
        let answer = |bytes: &usize| Answer {
            number: 1,
            body: Some(AnswerBody::Service(Bytes::from(vec![7; *bytes]))),
        };
        let frame = AnswerFrame {
            hello: None,
            answers: bodies.iter().map(answer).collect(),
        };
        let mut encoded = BytesMut::new();
        frame.encode(&mut encoded).expect("it grows");
        encoded
    }

    /// The decoded bodies, and which of them lie in the buffer they came in.
    fn decoded(mut frame: BytesMut, earlier: usize) -> Vec<(usize, bool)> {
        let buffer = frame.as_ptr_range();
        let longest = frame.len().max(earlier);
        let decoded: AnswerFrame = decode(&mut frame, longest).expect("it is whole");
        let body = |answer: Answer| match answer.body {
            Some(AnswerBody::Service(body)) => {
                assert!(body.iter().all(|byte| *byte == 7));
                (body.len(), buffer.contains(&body.as_ptr()))
            }
            other => panic!("{other:?}"),
        };
        decoded.answers.into_iter().map(body).collect()
    }

    #[test]
    fn only_what_is_most_of_a_large_frame_shares_its_memory() {
        const LARGE: usize = 8 << 20;
        assert_eq!(decoded(frame_of(&[LARGE, 50]), 0), [(LARGE, true), (50, false)]);
        assert_eq!(decoded(frame_of(&[50]), 0), [(50, false)]);
        let third = SHARED_BYTES_MIN;
        assert_eq!(decoded(frame_of(&[third; 3]), 0), [(third, false); 3]);
        assert_eq!(decoded(frame_of(&[third]), 0), [(third, true)]);
        let reused = decoded(frame_of(&[third]), LARGE);
        assert_eq!(
            reused,
            [(third, false)],
            "the buffer may still be that of the large one"
        );
    }

    #[test]
    fn a_frame_that_is_cut_is_an_error() {
        let whole = frame_of(&[300, 40]);
        for len in 1..whole.len() {
            let mut cut = BytesMut::from(&whole[..len]);
            if let Ok(frame) = decode::<AnswerFrame>(&mut cut, 0) {
                // A frame that ends between two answers is a shorter frame.
                assert_eq!(frame.answers.len(), 1, "cut at {len}");
            }
        }
    }
}
