//! Frames over a unix socket: 4 bytes of length, then JSON; descriptors ride on the first byte of their frame.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::MAX_FRAME;

/// Most descriptors that one read takes in.
const MAX_FDS: usize = 16;

/// Turns a message into a frame.
pub(crate) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        let text =
            format!("message of {length} bytes is larger than {MAX_FRAME} (hint: shorten the environment)");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// Sends what the socket takes; `fds` go with the first byte. Returns how many bytes went.
pub(crate) fn send(socket: &impl AsFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?)
}

/// What has been received and not yet taken.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Inbox {
    /// Receives once; 0 means that the peer closed.
    pub(crate) fn receive(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let start = self.bytes.len();
        self.bytes.resize(start + 8192, 0);
        let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
        let received = {
            let mut parts = [IoSliceMut::new(&mut self.bytes[start..])];
            let fd = socket.as_fd().as_raw_fd();
            recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC).and_then(
                |message| {
                    let mut fds = Vec::new();
                    for part in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(received) = part {
                            // SAFETY: the kernel just made these descriptors for this process; nothing else owns them.
                            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                        }
                    }
                    Ok((message.bytes, fds))
                },
            )
        };
        match received {
            Ok((count, fds)) => {
                self.bytes.truncate(start + count);
                self.fds.extend(fds);
                Ok(count)
            }
            Err(error) => {
                self.bytes.truncate(start);
                Err(error.into())
            }
        }
    }

    /// Takes the next whole message.
    pub(crate) fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(head) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("frame of {length} bytes is too large"),
            ));
        }
        let Some(frame) = self.bytes.get(4..4 + length) else { return Ok(None) };
        let message = serde_json::from_slice(frame)?;
        self.bytes.drain(..4 + length);
        if self.bytes.is_empty() && self.bytes.capacity() > 64 << 10 {
            self.bytes = Vec::new();
        }
        Ok(Some(message))
    }

    /// Takes the descriptors that came with a message.
    pub(crate) fn take_fds(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        if count > self.fds.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors announced and not sent"));
        }
        Ok(self.fds.drain(..count).collect())
    }
}
