//! Request and response bodies.

pub(crate) mod rope;

use std::{
    io::Write,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::Stream;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;

use self::rope::Rope;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, whichever client it comes from.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// A response's body: bytes at hand or to be made, a stream of frames, or what a node sends.
pub struct Body(Inner);

enum Inner {
    Full(Bytes),
    Chunks(Box<dyn Iterator<Item = Rope> + Send>, usize),
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
    Node { incoming: hyper::body::Incoming, _held: Box<dyn Send + Sync> },
}

impl Body {
    /// No bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Inner::Full(Bytes::new()))
    }

    /// These bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Full(bytes.into()))
    }

    /// Bytes that are made when they are about to be sent, `about` so many in all.
    pub(crate) fn chunks(chunks: impl Iterator<Item = Rope> + Send + 'static, about: usize) -> Self {
        Self(Inner::Chunks(Box::new(chunks), about))
    }

    /// Whether it goes on for as long as its client likes.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.0, Inner::Stream(_) | Inner::Node { .. })
    }

    /// The same, and something that lives as long.
    pub(crate) fn holding(self, held: impl Send + Sync + Unpin + 'static) -> Self {
        match self.0 {
            Inner::Stream(stream) => Self::stream(Holding { stream, _held: held }),
            Inner::Node { incoming, _held } => Self::node(incoming, Box::new((_held, held))),
            inner => Self(inner),
        }
    }

    /// The body in gzip, cheaply, when it is longer than `above`; and whether it is.
    pub(crate) fn compress(self, above: usize) -> (Self, bool) {
        match self.0 {
            Inner::Full(bytes) if bytes.len() > above => {
                let packed =
                    Packed::new(std::iter::once(Rope::from(bytes))).fold(Vec::new(), |mut all, chunk| {
                        all.extend_from_slice(&chunk);
                        all
                    });
                (Self::full(packed), true)
            }
            Inner::Chunks(chunks, about) if about > above => {
                (Self::chunks(Packed::new(chunks).map(Rope::from), about), true)
            }
            _ => (self, false),
        }
    }

    pub(crate) fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self(Inner::Stream(Box::pin(stream)))
    }

    /// Passes on what a node sends; `held` lives as long as the body.
    pub(crate) fn node(incoming: hyper::body::Incoming, held: Box<dyn Send + Sync>) -> Self {
        Self(Inner::Node { incoming, _held: held })
    }

    /// The bytes when they are all at hand.
    pub(crate) fn bytes(&self) -> Option<&Bytes> {
        match &self.0 {
            Inner::Full(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// A stream with something that lives as long.
struct Holding<T> {
    stream: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    _held: T,
}

impl<T: Unpin> Stream for Holding<T> {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Inner::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Inner::Chunks(chunks, _) => Poll::Ready(chunks.next().map(|chunk| Ok(Frame::data(chunk.flat())))),
            Inner::Stream(stream) => {
                stream.as_mut().poll_next(cx).map(|next| next.map(|b| Ok(Frame::data(b))))
            }
            Inner::Node { incoming, .. } => {
                Pin::new(incoming).poll_frame(cx).map(|next| next.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Full(bytes) => bytes.is_empty(),
            Inner::Stream(_) | Inner::Chunks(..) => false,
            Inner::Node { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Stream(_) | Inner::Chunks(..) => SizeHint::default(),
            Inner::Node { incoming, .. } => incoming.size_hint(),
        }
    }
}

/// A body on its way to the network: its pieces go out as they are, from where they lie.
pub(crate) struct Wire(pub(crate) Body);

impl http_body::Body for Wire {
    type Data = Rope;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Rope>, BoxError>>> {
        if let Inner::Chunks(chunks, _) = &mut self.0.0 {
            return Poll::Ready(chunks.next().map(|chunk| Ok(Frame::data(chunk))));
        }
        let frame = Pin::new(&mut self.0).poll_frame(cx);
        frame.map(|next| next.map(|frame| frame.map(|frame| frame.map_data(Rope::from))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// Packed bytes are given out in chunks of about this size.
const PACKED: usize = 16 << 10;

/// Chunks in gzip, at the level that costs least.
struct Packed<I> {
    chunks: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I> Packed<I> {
    fn new(chunks: I) -> Self {
        Self { chunks, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl<I: Iterator<Item = Rope>> Iterator for Packed<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        while let Some(encoder) = &mut self.encoder {
            // Writing to a Vec cannot fail.
            match self.chunks.next() {
                Some(chunk) => chunk.pieces().try_for_each(|piece| encoder.write_all(piece)).ok()?,
                None => return self.encoder.take()?.finish().ok().map(Bytes::from),
            }
            if encoder.get_ref().len() >= PACKED {
                return Some(std::mem::take(encoder.get_mut()).into());
            }
        }
        None
    }
}
