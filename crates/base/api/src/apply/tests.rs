//! Who owns what, after upstream's tests of field managers.

mod applies;
mod support;
mod timing;
mod updates;
