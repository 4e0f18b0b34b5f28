//! What expressions may ask the authorizer.

use sampan_api::validation::names;

use super::{Context, Implementation};
use crate::{
    authorizer::{Check, Decision, ServiceAccount},
    error::EvalError,
    eval::no_overload,
    value::{
        Value,
        opaque::{Inner, ResourceCheck},
    },
};

type Result<T> = std::result::Result<T, EvalError>;

pub(super) fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "path" => path,
        "group" => group,
        "serviceAccount" => service_account,
        "resource" => resource,
        "subresource" => |_, args| narrowed(&args, |check, text| check.subresource = text),
        "namespace" => |_, args| narrowed(&args, |check, text| check.namespace = text),
        "name" => |_, args| narrowed(&args, |check, text| check.name = text),
        "fieldSelector" => |_, args| narrowed(&args, |check, text| check.field_selector = text),
        "labelSelector" => |_, args| narrowed(&args, |check, text| check.label_selector = text),
        "check" => check,
        "errored" => |_, args| Ok(Value::Bool(decision(&args)?.error.is_some())),
        "error" => |_, args| Ok(Value::string(decision(&args)?.error.as_deref().unwrap_or(""))),
        "allowed" => |_, args| Ok(Value::Bool(decision(&args)?.allowed)),
        "reason" => |_, args| Ok(Value::string(decision(&args)?.reason.as_str())),
        _ => return None,
    })
}

fn inner<'v>(args: &'v [Value<'_>]) -> Result<&'v Inner> {
    match args.first() {
        Some(Value::Opaque(inner)) => Ok(inner),
        _ => Err(no_overload()),
    }
}

fn word(args: &[Value<'_>], at: usize) -> Result<String> {
    args.get(at).and_then(Value::as_str).map(str::to_owned).ok_or_else(no_overload)
}

fn path<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let Inner::Authorizer(account) = inner(&args)? else { return Err(no_overload()) };
    let path = word(&args, 1)?;
    if path.trim().is_empty() {
        return Err(EvalError::new("path must not be empty"));
    }
    Ok(Value::opaque(Inner::PathCheck(account.clone(), path)))
}

fn group<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let Inner::Authorizer(account) = inner(&args)? else { return Err(no_overload()) };
    Ok(Value::opaque(Inner::GroupCheck(account.clone(), word(&args, 1)?)))
}

fn service_account<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let Inner::Authorizer(_) = inner(&args)? else { return Err(no_overload()) };
    let (namespace, name) = (word(&args, 1)?, word(&args, 2)?);
    if !names::dns1123_subdomain(&name).is_empty() {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !names::dns1123_label(&namespace).is_empty() {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    Ok(Value::opaque(Inner::Authorizer(Some(ServiceAccount { namespace, name }))))
}

fn resource<'a>(_: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let Inner::GroupCheck(account, group) = inner(&args)? else { return Err(no_overload()) };
    let resource = word(&args, 1)?;
    if resource.trim().is_empty() {
        return Err(EvalError::new("resource must not be empty"));
    }
    let (account, group) = (account.clone(), group.clone());
    let check = ResourceCheck { account, group, resource, ..ResourceCheck::default() };
    Ok(Value::opaque(Inner::ResourceCheck(Box::new(check))))
}

fn narrowed<'a>(args: &[Value<'_>], set: fn(&mut ResourceCheck, String)) -> Result<Value<'a>> {
    let Inner::ResourceCheck(check) = inner(args)? else { return Err(no_overload()) };
    let mut check = check.clone();
    set(&mut check, word(args, 1)?);
    Ok(Value::opaque(Inner::ResourceCheck(check)))
}

fn check<'a>(context: &Context<'_>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    let verb = word(&args, 1)?;
    let (account, check) = match inner(&args)? {
        Inner::PathCheck(account, path) => (account, Check::Path { path: path.clone(), verb }),
        Inner::ResourceCheck(check) => {
            let asked = Check::Resource {
                group: check.group.clone(),
                resource: check.resource.clone(),
                subresource: check.subresource.clone(),
                namespace: check.namespace.clone(),
                name: check.name.clone(),
                field_selector: check.field_selector.clone(),
                label_selector: check.label_selector.clone(),
                verb,
            };
            (&check.account, asked)
        }
        _ => return Err(no_overload()),
    };
    let decision = match context.authorizer {
        Some(authorizer) => authorizer.decide(account.as_ref(), &check),
        None => Decision { error: Some("no authorizer here".to_owned()), ..Decision::default() },
    };
    Ok(Value::opaque(Inner::Decision(decision)))
}

fn decision<'v>(args: &'v [Value<'_>]) -> Result<&'v Decision> {
    match inner(args)? {
        Inner::Decision(decision) => Ok(decision),
        _ => Err(no_overload()),
    }
}
