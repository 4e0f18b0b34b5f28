//! Reservations: room on nodes that is held for pods to come.
//!
//! A [`Reservation`] has *seats*, `count` of them, each of the size of its template. A seat is placed like a pod, counts on
//! its node like one, and gives way to more important pods like one. An *owner* is a pod that may take what a seat holds:
//! it is then counted itself, and the seat holds what is left. How seats are kept on nodes is
//! [`Cluster`](crate::scheduler::Cluster)'s part; here is what the objects say.

mod object;
mod owners;
mod status;
#[cfg(test)]
mod tests;

use std::fmt;

pub use object::{Owner, OwnerReference, Reservation, ReservationSpec, leaves_at};
pub(crate) use owners::Maker;
pub use owners::{Policy, Wish};
pub use status::{Facts, ReservationStatus, SeatOwner, SeatStatus};

pub use sampan_api::kinds::RESERVATION_SEAT as CONSUMED;

use crate::scheduler::PodInfo;

/// The annotation of a pod that names the one reservation it may use: `NAME`, or `NAMESPACE/NAME`.
pub const RESERVATION: &str = "sampan.io/reservation";
/// The annotation of a pod that says how much it wants reserved room: `Preferred` (the default), `Required` or `Never`.
pub const POLICY: &str = "sampan.io/reservation-policy";
/// So many seats a reservation may have.
pub const MOST_SEATS: u32 = 1000;

/// One seat of one reservation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seat {
    /// The uid of the reservation: one that follows under the same name is another one.
    pub uid: Box<str>,
    /// Which of its seats.
    pub index: u32,
    /// Where the reservation is.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

/// `namespace/name/index/uid`.
impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.namespace, self.name, self.index, self.uid)
    }
}

impl Seat {
    /// Reads how a seat is written.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (namespace, name) = (parts.next()?, parts.next()?);
        let (index, uid) = (parts.next()?.parse().ok()?, parts.next()?);
        let whole = parts.next().is_none() && !uid.is_empty();
        whole.then(|| Self { uid: uid.into(), index, namespace: namespace.into(), name: name.into() })
    }

    /// Under this uid a seat is counted on its node. No pod has one like it.
    pub(crate) fn key(&self) -> Box<str> {
        format!("{PREFIX}{}/{}", self.uid, self.index).into()
    }
}

/// What the uids of seats begin with.
pub(crate) const PREFIX: &str = "seat/";

/// What a reservation asks for, read once.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Its uid.
    pub uid: Box<str>,
    /// Where it is.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// A pod as each seat is one.
    pub template: PodInfo,
    /// How many seats.
    pub count: u32,
    /// All are placed together, or none.
    pub gang: bool,
    /// A seat is for one owner, once.
    pub once: bool,
    pub(crate) owners: Vec<owners::Matcher>,
}

impl Terms {
    /// One of its seats.
    pub fn seat(&self, index: u32) -> Seat {
        Seat { uid: self.uid.clone(), index, namespace: self.namespace.clone(), name: self.name.clone() }
    }
}
