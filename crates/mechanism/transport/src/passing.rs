//! Listening sockets on their way to a child, which has nothing but its standard input for them.
//!
//! One is the standard input itself. Several come through it: it is a socket with one message, and the
//! listeners go with that message.

use crate::server::Listener;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// A role has no more.
const MAX_LISTENERS: usize = 4;

/// A message is a byte at least.
const MARK: [u8; 1] = *b"l";

/// What a child is to find as its standard input, so that it has these listeners. They stay open here.
///
/// # Errors
/// When the system refuses, or there are too many.
pub fn pass_listeners(listeners: &[TcpListener]) -> Result<OwnedFd> {
    if let [only] = listeners {
        return only.try_clone().map(Into::into);
    }
    let (ours, theirs) = UnixStream::pair()?;
    let passed: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let has_room = listeners.len() <= MAX_LISTENERS;
    if !(has_room && ancillary.push(SendAncillaryMessage::ScmRights(&passed))) {
        return Err(Error::new(ErrorKind::InvalidInput, "too many listeners for one process"));
    }
    // It is kept by the system until it is read, also after this end is closed.
    sendmsg(&ours, &[IoSlice::new(&MARK)], &mut ancillary, SendFlags::empty())?;
    Ok(theirs.into())
}

impl Listener {
    /// Takes over the listening TCP sockets that a parent process passed by standard input, in their
    /// order, so that the ports stay open, and clients wait instead of failing, while this process is
    /// replaced. Standard input is empty afterwards, so that dropping a listener closes its socket.
    ///
    /// # Errors
    /// When standard input is neither a listening TCP socket nor what has some.
    pub fn all_from_stdin() -> Result<Vec<Self>> {
        let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        let kind = rustix::net::sockopt::socket_domain(&socket)?;
        let sockets = match kind {
            rustix::net::AddressFamily::UNIX => received(&socket)?,
            _ => vec![socket],
        };
        sockets.into_iter().map(Self::of_tcp).collect()
    }
}

/// The sockets that come with a message.
fn received(socket: &OwnedFd) -> Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut mark = [0; MARK.len()];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(socket, &mut [IoSliceMut::new(&mut mark)], &mut ancillary, flags)?;
    if message.bytes != MARK.len() || message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Error::new(ErrorKind::InvalidData, "the listeners did not come whole"));
    }
    let messages = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    Ok(messages.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn listeners(num: usize) -> (Vec<TcpListener>, Vec<SocketAddr>) {
        let bound: Vec<_> = (0..num).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = bound.iter().map(|one| one.local_addr().unwrap()).collect();
        (bound, addresses)
    }

    #[test]
    fn listeners_come_in_their_order() {
        for num in [0, 2, MAX_LISTENERS] {
            let (bound, addresses) = listeners(num);
            let stdin = pass_listeners(&bound).unwrap();
            drop(bound);
            let got = received(&stdin).unwrap().into_iter().map(TcpListener::from);
            assert_eq!(got.map(|one| one.local_addr().unwrap()).collect::<Vec<_>>(), addresses);
            // There is one message.
            assert!(received(&stdin).is_err());
        }
        assert!(pass_listeners(&listeners(MAX_LISTENERS + 1).0).is_err());
    }

    #[test]
    fn one_is_passed_as_it_is() {
        let (bound, addresses) = listeners(1);
        let passed = TcpListener::from(pass_listeners(&bound).unwrap());
        assert_eq!(passed.local_addr().unwrap(), addresses[0]);
    }
}
