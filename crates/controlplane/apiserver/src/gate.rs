//! What a request passes before it is carried out: a place by priority and fairness, then permission.

use http::Method;
use sampan_api::status::Status;

use crate::{
    authz::Attributes,
    core::Core,
    fairness::{self, Place},
    request::{self, Query, Route, Target},
    user::UserInfo,
};

/// The verb of a request as authorization, flow control and the audit log name it.
pub(crate) fn verb(method: &Method, route: &Route, query: &Query) -> String {
    let verb = match route {
        Route::Object(target) => request::verb(method, target, query),
        _ => None,
    };
    verb.map_or_else(|| method.as_str().to_ascii_lowercase(), str::to_owned)
}

/// A request as an authorizer sees it.
pub(crate) fn attributes<'a>(verb: &'a str, path: &'a str, route: &'a Route) -> Attributes<'a> {
    match route {
        Route::Object(target) => Attributes::resource(verb, target),
        _ => Attributes::Path { verb, path },
    }
}

/// Whether the request goes on for as long as its client likes.
pub(crate) fn is_stream(target: &Target) -> bool {
    matches!(target.subresource.as_deref(), Some("log" | "exec" | "attach" | "portforward" | "proxy"))
}

impl Core {
    /// Where a request belongs, and how many seats it takes; none for a stream.
    pub(crate) fn place(
        &self,
        user: &UserInfo,
        attributes: &Attributes<'_>,
        query: &Query,
    ) -> (Place, Option<i64>) {
        let place = self.fairness.place(user, attributes);
        let Attributes::Resource { verb, target, .. } = attributes else { return (place, Some(1)) };
        if is_stream(target) {
            return (place, None);
        }
        if *verb != "list" {
            return (place, Some(1));
        }
        let endpoint = self.endpoint(&target.group, &target.version, &target.resource).ok();
        let whole = endpoint.filter(|_| target.namespace.is_none());
        let objects = whole.map_or(0, |endpoint| endpoint.listed.load(std::sync::atomic::Ordering::Relaxed));
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
        (place, Some(fairness::list_width(objects, limit)))
    }

    /// Lets pass what the user may do with a resource.
    pub(crate) async fn permit(
        &self,
        user: &UserInfo,
        verb: &str,
        target: &Target,
        query: &Query,
    ) -> Result<(), Status> {
        let fields = query.get("fieldSelector");
        let named = fields.and_then(|fields| request::named(verb, target, fields));
        let target = named.as_ref().unwrap_or(target);
        let attributes = Attributes::Resource { verb, target, fields };
        if self.authz.allows(user, &attributes) {
            return self.permit_stream(user, verb, target);
        }
        self.authz.second_thought(user).await;
        self.authorize(user, &attributes)
    }

    /// A stream into a pod changes it, whichever method opens it: a WebSocket can only be opened by GET.
    fn permit_stream(&self, user: &UserInfo, verb: &str, target: &Target) -> Result<(), Status> {
        let stream = matches!(target.subresource.as_deref(), Some("exec" | "attach" | "portforward"));
        if verb == "get" && stream && target.resource == "pods" && target.group.is_empty() {
            return self.authorize(user, &Attributes::resource("create", target));
        }
        Ok(())
    }
}
