//! Where a state on etcd came from: whether it is whole, and by how much its revisions are ahead of etcd's own.

use etcd_client::{Compare, CompareOp, Txn, TxnOp};

use super::{
    Etcd, retry,
    retry::Attempts,
    translate::{ORIGIN, failure},
};
use crate::{Error, Result, Revision};

/// How far the move of a state has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It is here, whole.
    #[default]
    Here,
    /// It is being copied to here.
    Arriving,
    /// It is being copied from here.
    Leaving,
    /// It is elsewhere now.
    Gone,
}

/// What is written about the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// How far it is.
    pub phase: Phase,
    /// What is added to etcd's revisions.
    pub offset: Revision,
    /// Who moved it, or moves it.
    pub mover: String,
}

impl Origin {
    /// Whether servers may work with it.
    pub(super) fn usable(&self) -> Result<()> {
        let why = match self.phase {
            Phase::Here => return Ok(()),
            Phase::Arriving => "a move to this etcd has not ended (hint: run `sampan store migrate` again)",
            Phase::Leaving => {
                "the state is being moved away from this etcd (hint: run `sampan store migrate` again, or with --to \
                 this etcd to stay)"
            }
            Phase::Gone => {
                "the state was moved away from this etcd (hint: start the servers without --store)"
            }
        };
        Err(Error::Unavailable(format!("{why}; mover: {}", self.mover)))
    }

    fn encode(&self) -> String {
        let phase = match self.phase {
            Phase::Here => "here",
            Phase::Arriving => "arriving",
            Phase::Leaving => "leaving",
            Phase::Gone => "gone",
        };
        format!("1 {phase} {} {}", self.offset, self.mover)
    }

    fn decode(text: &str) -> Option<Self> {
        let mut words = text.splitn(4, ' ');
        (words.next()? == "1").then_some(())?;
        let phase = match words.next()? {
            "here" => Phase::Here,
            "arriving" => Phase::Arriving,
            "leaving" => Phase::Leaving,
            "gone" => Phase::Gone,
            _ => return None,
        };
        let offset = words.next()?.parse().ok()?;
        Some(Self { phase, offset, mover: words.next().unwrap_or_default().to_owned() })
    }
}

impl Etcd {
    /// What is written about the state, with etcd's revision of that; nothing about one that began here.
    pub(crate) async fn origin(&self) -> Result<Option<(Origin, Revision)>> {
        let mut attempts = Attempts::new();
        let mut found = loop {
            match self.kv().get(self.keys.below(ORIGIN), None).await {
                Ok(found) => break found,
                Err(error) if retry::passing(&error) && attempts.again().await => {}
                Err(error) => return Err(failure(&error)),
            }
        };
        let Some(kv) = found.take_kvs().pop() else { return Ok(None) };
        let text = String::from_utf8_lossy(kv.value()).into_owned();
        match Origin::decode(&text) {
            Some(origin) => Ok(Some((origin, kv.mod_revision()))),
            None => Err(Error::Corrupt(format!(
                "{text:?} about the state (hint: use the newer version that wrote it)"
            ))),
        }
    }

    /// Writes it, if it still is at etcd's revision `before` (0: not there). False when somebody else was faster.
    pub(crate) async fn set_origin(&self, origin: &Origin, before: Revision) -> Result<bool> {
        let key = self.keys.below(ORIGIN);
        let txn = Txn::new()
            .when([Compare::mod_revision(key.clone(), CompareOp::Equal, before)])
            .and_then([TxnOp::put(key, origin.encode(), None)]);
        let written = self.kv().txn(txn).await.map_err(|e| failure(&e))?;
        Ok(written.succeeded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written() {
        let origin = Origin { phase: Phase::Arriving, offset: 70_001, mover: "0a1b at 7 o'clock".into() };
        assert_eq!(Origin::decode(&origin.encode()), Some(origin.clone()));
        assert!(Origin::decode("2 here 0 x").is_none() && Origin::decode("").is_none());
        assert!(origin.usable().unwrap_err().to_string().contains("hint"));
        assert!(Origin::default().usable().is_ok());
    }
}
