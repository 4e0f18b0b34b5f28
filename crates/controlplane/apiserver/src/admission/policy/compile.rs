//! Policies and bindings, compiled.

use std::sync::{Arc, LazyLock};

use sampan_cel::{Declared, Environment, Opaque, Program, Type};
use serde_json::Value;

use super::{Kind, matching::Constraints};
use crate::call::text;

/// A policy.
pub(crate) struct Policy {
    pub(super) name: String,
    /// The generation of the spec, and the last one whose types were checked.
    pub(super) generations: (i64, i64),
    pub(super) constraints: Option<Constraints>,
    /// The apiVersion and kind of its parameters.
    pub(super) params: Option<(String, String)>,
    /// A policy that fails is no refusal.
    pub(super) ignore: bool,
    /// It wants to see what other policies change after it.
    pub(super) reinvoke: bool,
    pub(super) environment: Arc<Environment>,
    pub(super) variables: Vec<(String, Program)>,
    /// Each with its expression.
    pub(super) conditions: Vec<(String, Program)>,
    pub(super) validations: Vec<Validation>,
    pub(super) annotations: Vec<(String, Program)>,
    pub(super) mutations: Vec<Mutation>,
    /// Why it cannot be evaluated at all.
    pub(super) broken: Option<String>,
}

/// One validation.
pub(super) struct Validation {
    pub(super) program: Program,
    pub(super) expression: String,
    pub(super) message: String,
    pub(super) message_program: Option<Program>,
    pub(super) reason: String,
}

/// One mutation.
pub(super) enum Mutation {
    Apply(String, Program),
    Patch(String, Program),
}

/// An expression that does not compile.
pub(super) struct Wrong {
    /// The field, below `spec`.
    pub(super) field: String,
    pub(super) expression: String,
    pub(super) detail: String,
}

/// The variable under which an admission request is seen.
static REQUEST: LazyLock<Declared> = LazyLock::new(|| {
    let text = || Declared::simple(Type::String);
    let fields = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), text())).collect::<Vec<_>>();
    let kind = Declared::object("kubernetes.GroupVersionKind", fields(&["group", "version", "kind"]));
    let resource =
        Declared::object("kubernetes.GroupVersionResource", fields(&["group", "version", "resource"]));
    let mut user = fields(&["username", "uid"]);
    user.push(("groups".to_owned(), Declared::list(text())));
    user.push(("extra".to_owned(), Declared::map(Declared::list(text()))));
    let mut request = fields(&["subResource", "requestSubResource", "name", "namespace", "operation"]);
    request.extend([
        ("kind".to_owned(), kind.clone()),
        ("requestKind".to_owned(), kind),
        ("resource".to_owned(), resource.clone()),
        ("requestResource".to_owned(), resource),
        ("userInfo".to_owned(), Declared::object("kubernetes.UserInfo", user)),
        ("dryRun".to_owned(), Declared::simple(Type::Bool)),
        ("options".to_owned(), Declared::dynamic()),
    ]);
    Declared::object("kubernetes.AdmissionRequest", request)
});

/// What expressions see of a namespace.
static NAMESPACE: LazyLock<Declared> = LazyLock::new(|| {
    let text = || Declared::simple(Type::String);
    let field = |name: &str, declared| (name.to_owned(), declared);
    let time = || Declared::simple(Type::Timestamp);
    let number = || Declared::simple(Type::Int);
    let condition = Declared::object(
        "kubernetes.NamespaceCondition",
        [
            field("status", text()),
            field("type", text()),
            field("lastTransitionTime", time()),
            field("message", text()),
            field("reason", text()),
        ],
    );
    let metadata = Declared::object(
        "kubernetes.NamespaceMetadata",
        [
            field("name", text()),
            field("generateName", text()),
            field("namespace", text()),
            field("labels", Declared::map(text())),
            field("annotations", Declared::map(text())),
            field("UID", text()),
            field("creationTimestamp", time()),
            field("deletionGracePeriodSeconds", number()),
            field("deletionTimestamp", time()),
            field("generation", number()),
            field("resourceVersion", text()),
            field("finalizers", Declared::list(text())),
        ],
    );
    let spec = Declared::object("kubernetes.NamespaceSpec", [field("finalizers", Declared::list(text()))]);
    let status = Declared::object(
        "kubernetes.NamespaceStatus",
        [field("conditions", Declared::list(condition)), field("phase", text())],
    );
    Declared::object(
        "kubernetes.Namespace",
        [field("metadata", metadata), field("spec", spec), field("status", status)],
    )
});

/// The variables of admission: `object`, `oldObject`, `request`, `namespaceObject`, perhaps `params`, `authorizer`.
pub(crate) fn environment(params: bool) -> Environment {
    typed(Declared::dynamic(), params.then(Declared::dynamic))
}

/// The same with what is known of objects and parameters.
pub(super) fn typed(object: Declared, params: Option<Declared>) -> Environment {
    let mut environment = Environment::new()
        .with("object", object.clone())
        .with("oldObject", object)
        .with("request", REQUEST.clone())
        .with("namespaceObject", NAMESPACE.clone())
        .with("authorizer", Declared::simple(Type::Opaque(Opaque::Authorizer)))
        .with("authorizer.requestResource", Declared::simple(Type::Opaque(Opaque::ResourceCheck)));
    if let Some(params) = params {
        environment = environment.with("params", params);
    }
    environment
}

/// Compiles expressions, and keeps what is wrong with them.
pub(super) struct Compiler {
    pub(super) environment: Arc<Environment>,
    pub(super) wrong: Vec<Wrong>,
}

impl Compiler {
    pub(super) fn new(environment: Arc<Environment>) -> Self {
        Self { environment, wrong: Vec::new() }
    }

    fn compile(
        &mut self,
        field: String,
        expression: &str,
        results: &[Type],
        authorizer: bool,
    ) -> Option<Program> {
        let detail = match Program::compile(&self.environment, expression, results) {
            Ok(program) if !authorizer && program.uses("authorizer") => {
                "compilation failed: undeclared reference to 'authorizer' (in container '')".to_owned()
            }
            Ok(program) => return Some(program),
            Err(error) if error.wrong_result => error.to_string(),
            Err(error) => format!("compilation failed: {error}"),
        };
        self.wrong.push(Wrong { field, expression: expression.to_owned(), detail });
        None
    }

    /// Compiles the variables in their order; each sees those before it.
    pub(super) fn variables(&mut self, spec: &Value) -> Vec<(String, Program)> {
        let mut seen: Vec<(String, Declared)> = Vec::new();
        let mut programs = Vec::new();
        for (index, variable) in items(spec, "variables").iter().enumerate() {
            let name = text(variable, "/name").to_owned();
            let expression = text(variable, "/expression");
            let field = format!("variables[{index}].expression");
            let program = self.compile(field, expression, &[], true);
            let declared = Declared::simple(program.as_ref().map_or(Type::Dyn, |p| p.result().clone()));
            seen.push((name.clone(), declared.clone()));
            let known = Declared::object("kubernetes.variables", seen.clone());
            let environment = Environment::clone(&self.environment);
            let environment =
                environment.with("variables", known).with(&format!("variables.{name}"), declared);
            self.environment = environment.share();
            programs.extend(program.map(|program| (format!("variables.{name}"), program)));
        }
        programs
    }
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

pub(super) fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl Policy {
    /// Compiles a policy; one that does not compile says so to every request that it matches.
    pub(crate) fn compile(kind: Kind, object: &Value) -> Policy {
        Policy::build(kind, object).0
    }

    /// What does not compile.
    pub(super) fn wrong(kind: Kind, object: &Value) -> Vec<Wrong> {
        Policy::build(kind, object).1
    }

    fn build(kind: Kind, object: &Value) -> (Policy, Vec<Wrong>) {
        let spec = &object["spec"];
        let params = spec.get("paramKind").filter(|kind| kind.is_object());
        let params =
            params.map(|kind| (text(kind, "/apiVersion").to_owned(), text(kind, "/kind").to_owned()));
        let mut base = environment(params.is_some());
        if kind == Kind::Mutating {
            base = base.with_patches();
        }
        let mut compiler = Compiler::new(base.share());
        let variables = compiler.variables(spec);
        let conditions = conditions(&mut compiler, spec);
        let validations = validations(&mut compiler, spec);
        let annotations = annotations(&mut compiler, spec);
        let mutations = mutations(&mut compiler, spec);
        let Compiler { environment, wrong } = compiler;
        let broken = wrong.first().map(|wrong| wrong.detail.clone());
        let constraints = Constraints::parse(spec.get("matchConstraints"));
        let policy = Policy {
            name: text(object, "/metadata/name").to_owned(),
            generations: (
                number(object, "/metadata/generation"),
                number(object, "/status/observedGeneration"),
            ),
            constraints,
            params,
            ignore: text(spec, "/failurePolicy") == "Ignore",
            reinvoke: text(spec, "/reinvocationPolicy") == "IfNeeded",
            environment,
            variables,
            conditions,
            validations,
            annotations,
            mutations,
            broken,
        };
        (policy, wrong)
    }
}

/// The match conditions, each with its expression.
pub(super) fn conditions(compiler: &mut Compiler, spec: &Value) -> Vec<(String, Program)> {
    let mut programs = Vec::new();
    for (index, condition) in items(spec, "matchConditions").iter().enumerate() {
        let field = format!("matchConditions[{index}].expression");
        let expression = text(condition, "/expression");
        let program = compiler.compile(field, expression, &[Type::Bool], true);
        programs.extend(program.map(|program| (expression.to_owned(), program)));
    }
    programs
}

fn validations(compiler: &mut Compiler, spec: &Value) -> Vec<Validation> {
    let mut validations = Vec::new();
    for (index, validation) in items(spec, "validations").iter().enumerate() {
        let expression = text(validation, "/expression");
        let field = format!("validations[{index}].expression");
        let program = compiler.compile(field, expression, &[Type::Bool], true);
        let message = text(validation, "/messageExpression");
        let message_program = (!message.trim().is_empty())
            .then(|| {
                let field = format!("validations[{index}].messageExpression");
                compiler.compile(field, message, &[Type::String], false)
            })
            .flatten();
        let Some(program) = program else { continue };
        validations.push(Validation {
            program,
            expression: expression.trim().to_owned(),
            message: text(validation, "/message").trim().to_owned(),
            message_program,
            reason: text(validation, "/reason").to_owned(),
        });
    }
    validations
}

fn annotations(compiler: &mut Compiler, spec: &Value) -> Vec<(String, Program)> {
    let mut programs = Vec::new();
    for (index, annotation) in items(spec, "auditAnnotations").iter().enumerate() {
        let field = format!("auditAnnotations[{index}].valueExpression");
        let results = [Type::String, Type::Null];
        let program = compiler.compile(field, text(annotation, "/valueExpression"), &results, false);
        programs.extend(program.map(|program| (text(annotation, "/key").to_owned(), program)));
    }
    programs
}

fn mutations(compiler: &mut Compiler, spec: &Value) -> Vec<Mutation> {
    let named = |name: &str| match Declared::object(name, []).ty() {
        Type::Object(object) => Type::Object(object),
        other => other,
    };
    let mut mutations = Vec::new();
    for (index, mutation) in items(spec, "mutations").iter().enumerate() {
        if text(mutation, "/patchType") == "JSONPatch" {
            let field = format!("mutations[{index}].jsonPatch.expression");
            let expression = text(mutation, "/jsonPatch/expression");
            let results = [Type::list(named("JSONPatch"))];
            mutations.extend(
                compiler
                    .compile(field, expression, &results, true)
                    .map(|p| Mutation::Patch(expression.to_owned(), p)),
            );
        } else {
            let field = format!("mutations[{index}].applyConfiguration.expression");
            let expression = text(mutation, "/applyConfiguration/expression");
            let program = compiler.compile(field, expression, &[named("Object")], true);
            mutations.extend(program.map(|p| Mutation::Apply(expression.to_owned(), p)));
        }
    }
    mutations
}

/// A binding of a policy.
pub(crate) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    /// Without any it matches what its policy matches.
    pub(super) constraints: Option<Constraints>,
    /// A selector that is wrong selects nothing, and says so.
    pub(super) unusable: bool,
    pub(super) params: Option<ParamRef>,
    pub(super) actions: Vec<String>,
}

/// Where a binding's parameters are.
pub(super) struct ParamRef {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) selector: Option<Value>,
    /// To have none is an error.
    pub(super) deny: bool,
}

impl Binding {
    fn parse_params(spec: &Value) -> Option<ParamRef> {
        let params = spec.get("paramRef").filter(|params| params.is_object())?;
        Some(ParamRef {
            name: text(params, "/name").to_owned(),
            namespace: text(params, "/namespace").to_owned(),
            selector: params.get("selector").filter(|selector| selector.is_object()).cloned(),
            deny: text(params, "/parameterNotFoundAction") == "Deny",
        })
    }

    /// Reads a binding.
    pub(crate) fn parse(object: &Value) -> Option<Binding> {
        let spec = &object["spec"];
        let actions = items(spec, "validationActions").iter().filter_map(Value::as_str).map(str::to_owned);
        let resources = spec.get("matchResources").filter(|resources| resources.is_object());
        let constraints = Constraints::parse(resources);
        Some(Binding {
            name: text(object, "/metadata/name").to_owned(),
            policy: text(spec, "/policyName").to_owned(),
            unusable: resources.is_some() && constraints.is_none(),
            constraints,
            params: Binding::parse_params(spec),
            actions: actions.collect(),
        })
    }
}
