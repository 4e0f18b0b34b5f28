//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction and ClusterTrustBundleAttest: who may let a
//! signer sign.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sampan_api::status::{Status, go_quote};
use serde_json::Value;
use x509_parser::{certification_request::X509CertificationRequest, pem::Pem, prelude::FromDer};

use super::{Operation, Review};
use crate::{authz::Attributes, call::text, core::Core, request::Target};

/// The signer of client certificates for this API.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub(crate) fn check(core: &Core, review: &Review<'_>) -> Result<(), Status> {
    let old = review.old.unwrap_or(&Value::Null);
    let signer = text(old, "/spec/signerName");
    let (verb, word, signer) = match (review.resource.plural, review.subresource, review.operation) {
        ("certificatesigningrequests", "approval", Operation::Update) => {
            ("approve", "approve requests with signerName", signer)
        }
        ("certificatesigningrequests", "status", Operation::Update) => {
            let same = |pointer: &str| old.pointer(pointer) == review.object.pointer(pointer);
            if same("/status/certificate") && same("/status/conditions") {
                return Ok(());
            }
            ("sign", "sign requests with signerName", signer)
        }
        ("certificatesigningrequests", "", Operation::Create) => return subject(review),
        ("clustertrustbundles", "", Operation::Create | Operation::Update) => {
            let signer = text(&review.object, "/spec/signerName");
            if signer.is_empty() || old.get("spec") == review.object.get("spec") {
                return Ok(());
            }
            ("attest", "attest for signerName", signer)
        }
        _ => return Ok(()),
    };
    if may(core, review, verb, signer) {
        return Ok(());
    }
    Err(review.forbidden(format!("user not permitted to {word} {}", go_quote(signer))))
}

/// Permission is given for one signer or for all of a domain.
fn may(core: &Core, review: &Review<'_>, verb: &str, signer: &str) -> bool {
    let allowed = |name: String| {
        let target = Target {
            group: "certificates.k8s.io".to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name: Some(name),
            ..Target::default()
        };
        core.decide(&review.call.user, &Attributes::resource(verb, &target)).allowed
    };
    let domain = signer.split('/').next().unwrap_or_default();
    allowed(signer.to_owned()) || allowed(format!("{domain}/*"))
}

/// Nobody gets a certificate of the group that may do everything by asking for it.
fn subject(review: &Review<'_>) -> Result<(), Status> {
    if text(&review.object, "/spec/signerName") != CLIENT_SIGNER {
        return Ok(());
    }
    let failed = |why: &str| review.forbidden(format!("failed to parse CSR: {why}"));
    let pem = STANDARD
        .decode(text(&review.object, "/spec/request"))
        .map_err(|_| failed("PEM block type must be CERTIFICATE REQUEST"))?;
    let block = Pem::iter_from_buffer(&pem).next().and_then(Result::ok);
    let Some(block) = block.filter(|block| block.label == "CERTIFICATE REQUEST") else {
        return Err(failed("PEM block type must be CERTIFICATE REQUEST"));
    };
    let (_, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|error| failed(&error.to_string()))?;
    let subject = &request.certification_request_info.subject;
    if subject.iter_organization().any(|group| group.as_str() == Ok("system:masters")) {
        return Err(review
            .forbidden(format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed")));
    }
    Ok(())
}
