//! Takes the descriptions out of k8s-openapi's JSON schemas.

use k8s_openapi::api::{
    apps, authentication, authorization, autoscaling, batch, coordination, core, discovery, events, policy,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::schemars::SchemaGenerator;
use serde_json::{Map, Value};

macro_rules! schemas_of {
    ($generator:ident: $($kind:ty),* $(,)?) => { $( $generator.subschema_for::<$kind>(); )* };
}

/// The schema of every type that the served kinds reach, by its OpenAPI name.
pub(super) fn definitions() -> Map<String, Value> {
    let mut generator = SchemaGenerator::default();
    schemas_of!(generator:
        core::v1::Binding, core::v1::ConfigMap, core::v1::Endpoints, core::v1::Event, core::v1::Namespace,
        core::v1::Node, core::v1::Pod, core::v1::PodTemplate, core::v1::Secret, core::v1::Service,
        core::v1::ServiceAccount,
        apps::v1::ControllerRevision, apps::v1::DaemonSet, apps::v1::Deployment, apps::v1::ReplicaSet,
        apps::v1::StatefulSet,
        authentication::v1::SelfSubjectReview, authentication::v1::TokenRequest, authentication::v1::TokenReview,
        authorization::v1::SelfSubjectAccessReview, authorization::v1::SubjectAccessReview,
        autoscaling::v1::Scale, batch::v1::CronJob, batch::v1::Job, coordination::v1::Lease,
        discovery::v1::EndpointSlice, events::v1::Event, policy::v1::Eviction,
        meta::Status, meta::DeleteOptions, meta::APIResourceList, meta::ListMeta,
    );
    generator.take_definitions(true).into_iter().collect()
}
