//! What calls cost.

use super::{Coster, Entries, LIST, Place, REGEX, Range, TRAVERSAL, times};
use crate::{
    ast::{Expr, Kind, Literal},
    types::{Opaque, Type},
};

/// The cost of a call, and the size of what it yields.
type Estimate = (Range, Option<Range>);

/// What a check of authorization costs.
pub(crate) const CHECK: u64 = 350_000;
/// The length of the regular expression that stands for a format.
const FORMAT_REGEX: f64 = 128.0;

fn only(cost: Range) -> Estimate {
    (cost, None)
}

impl<'e> Coster<'e> {
    pub(super) fn call(
        &mut self,
        expr: &'e Expr,
        function: &str,
        target: Option<&'e Expr>,
        args: &'e [Expr],
    ) -> Range {
        if function == "dyn" {
            let Some(arg) = args.first() else { return Range::default() };
            let cost = self.cost(arg);
            let (size, entries) = (self.size(arg), self.entries(arg));
            self.keep(expr, size, entries);
            return cost.add(Range::fixed(1));
        }
        let costs: Vec<Range> = args.iter().map(|arg| self.cost(arg)).collect();
        let sum = target.map_or(Range::default(), |target| self.cost(target));
        let (mut cost, mut result) = (Range { min: u64::MAX, max: 0 }, None::<Range>);
        for overload in self.checked.overloads(expr) {
            let call = Call { expr, function, overload: &overload.id, target, args, costs: &costs };
            let (estimate, size) = self.overload(&call);
            cost = cost.union(estimate);
            if let Some(size) = size {
                result = Some(result.map_or(size, |result| result.union(size)));
            }
            let step = match overload.id.as_str() {
                "index_list" => Some("@items"),
                "index_map" => Some("@values"),
                _ => None,
            };
            if let (Some(step), Some(container)) = (step, args.first()) {
                result = self.entries(container).map(|entries| entries.value);
                let place = self.place(container).child(step);
                self.places.insert(expr.id, place);
            }
            if result.is_none() {
                result = self.size(expr);
            }
        }
        self.keep(expr, result, None);
        sum.add(cost)
    }

    fn overload(&mut self, call: &Call<'_, 'e>) -> Estimate {
        let args = call.costs.iter().fold(Range::default(), |sum, cost| sum.add(*cost));
        let estimate =
            self.sets_and_lists(call).or_else(|| self.library(call)).or_else(|| self.addresses(call));
        if let Some((cost, size)) = estimate {
            return (cost.add(args), size);
        }
        self.standard(call, args)
    }

    fn of(&mut self, expr: Option<&'e Expr>) -> Range {
        expr.map_or(Range::UNKNOWN, |expr| self.size_or_unknown(expr))
    }

    /// What cel-go knows of its own extensions.
    fn sets_and_lists(&mut self, call: &Call<'_, 'e>) -> Option<Estimate> {
        let sized =
            |factor: f64, size: Range| Some((size.times(factor).add(Range::fixed(1 + LIST)), Some(size)));
        match call.overload {
            "list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list" => {
                let factor = if call.overload == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
                let (a, b) = (self.of(call.args.first()), self.of(call.args.get(1)));
                Some(only(a.multiply(b).times(factor).add(Range::fixed(1))))
            }
            "list_slice" => {
                let size = self.of(call.target);
                let (start, end) =
                    (int(call.args.first()).unwrap_or(0), int(call.args.get(1)).unwrap_or(size.max));
                sized(1.0, Range::fixed(end.saturating_sub(start)))
            }
            "lists_range" => sized(1.0, Range::fixed(int(call.args.first()).unwrap_or(u64::MAX))),
            "list_reverse" => sized(1.0, self.of(call.target)),
            "list_flatten" => sized(1.0, self.of(call.target)),
            "list_flatten_int" => {
                let depth = int(call.args.first()).unwrap_or(u64::MAX);
                sized(depth as f64, self.of(call.target))
            }
            "list_distinct" => {
                let size = self.of(call.target);
                sized(2.0, size.multiply(size))
            }
            id if id.ends_with("_sort") || id.ends_with("_sortByAssociatedKeys") => {
                let by = if id.ends_with("_sort") { call.target } else { call.args.first() };
                let size = self.of(by);
                let text = id.starts_with("list_string") || id.starts_with("list_bytes");
                sized(if text { 2.0 + TRAVERSAL } else { 2.0 }, size.multiply(size))
            }
            _ => None,
        }
    }

    /// What Kubernetes knows of its library and of strings.
    fn library(&mut self, call: &Call<'_, 'e>) -> Option<Estimate> {
        let fixed = |cost| Some(only(Range::fixed(cost)));
        match call.function {
            "check" => fixed(CHECK),
            "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name"
            | "allowed" | "reason" | "error" | "errored" => fixed(1),
            "fieldSelector" | "labelSelector" => {
                let size = self.of(call.args.first());
                let requirements = size.times(0.5).times((LIST + super::STRUCT) as f64);
                Some(only(Range::fixed(LIST).add(size.times(TRAVERSAL)).add(requirements)))
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
                let target = call.target?;
                Some(only(self.traversal(target)))
            }
            "url" | "jsonpatch.escapeKey" => {
                let size = self.of(call.args.first());
                Some((size.times(TRAVERSAL), Some(size)))
            }
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                let size = self.of(Some(call.target?));
                Some((size.times(TRAVERSAL), Some(size)))
            }
            "replace" => {
                let (of, from) = (self.of(Some(call.target?)), self.of(call.args.first()));
                let to = self.of(call.args.get(1));
                Some((of.times(2.0 * TRAVERSAL), Some(replaced(of, from, to))))
            }
            "split" => {
                let size = self.of(Some(call.target?));
                let max = int(call.args.get(1)).unwrap_or(size.max);
                Some((size.times(2.0 * TRAVERSAL), Some(Range { min: 0, max })))
            }
            "join" => self.join(call),
            "find" | "findAll" => {
                let size = self.of(Some(call.target?));
                let text = size.add(Range::fixed(1)).times(TRAVERSAL);
                let regex = self.of(call.args.first()).times(REGEX);
                Some((text.multiply(regex), Some(Range { min: 0, max: size.max })))
            }
            "quantity" | "isQuantity" | "semver" | "isSemver" => {
                Some(only(self.of(call.args.first()).times(TRAVERSAL)))
            }
            "validate" => {
                let size = self.of(call.args.first());
                Some(only(size.times(TRAVERSAL).times(FORMAT_REGEX * REGEX)))
            }
            "format.named" | "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "isGreaterThan"
            | "isLessThan" | "compareTo" | "add" | "sub" | "major" | "minor" | "patch" | "getScheme"
            | "getHostname" | "getHost" | "getPort" | "getEscapedPath" | "getQuery" => fixed(1),
            "_==_" => self.equality(call),
            _ => None,
        }
    }

    fn addresses(&mut self, call: &Call<'_, 'e>) -> Option<Estimate> {
        let fixed = |cost| Some(only(Range::fixed(cost)));
        match call.function {
            "cidr" | "isIP" | "isCIDR" => Some(only(self.of(call.args.first()).times(TRAVERSAL))),
            "ip" if call.overload == "cidr_ip" => fixed(1),
            "ip" => Some(only(self.of(call.args.first()).times(TRAVERSAL))),
            "ip.isCanonical" => Some(only(self.of(call.args.first()).times(2.0 * TRAVERSAL))),
            "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast" => fixed(1),
            "containsIP" | "containsCIDR" => {
                let bytes = Range { min: 4, max: 16 };
                let mut cost = bytes.add(bytes).times(TRAVERSAL);
                if call.function == "containsCIDR" {
                    cost = cost.add(bytes.times(TRAVERSAL)).add(Range::fixed(1));
                }
                if call.overload.ends_with("_string") {
                    cost = cost.add(self.of(call.args.first()).times(TRAVERSAL));
                }
                Some(only(cost))
            }
            _ => None,
        }
    }

    /// Going over a list once; over the text of each element, too.
    fn traversal(&mut self, target: &'e Expr) -> Range {
        let size = self.size_or_unknown(target);
        let Type::List(items) = self.checked.ty(target) else { return size.times(TRAVERSAL) };
        let mut each = Range::fixed(1);
        if matches!(**items, Type::String | Type::Bytes) {
            each = each.add(self.item_size(target).times(TRAVERSAL));
        }
        size.multiply(each)
    }

    /// The size of a list's elements, by declaration.
    fn item_size(&self, list: &Expr) -> Range {
        match self.place(list) {
            Place::None => Range::UNKNOWN,
            place => place.child("@items").size().unwrap_or(Range::UNKNOWN),
        }
    }

    fn join(&mut self, call: &Call<'_, 'e>) -> Option<Estimate> {
        let target = call.target?;
        let list = self.size_or_unknown(target);
        let mut size = list.multiply(self.item_size(target));
        if let Some(separator) = call.args.first() {
            let between = Range { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
            size = size.add(self.size_or_unknown(separator).multiply(between));
        }
        Some((size.times(TRAVERSAL), Some(size)))
    }

    fn equality(&mut self, call: &Call<'_, 'e>) -> Option<Estimate> {
        let [a, b] = call.args else { return None };
        if self.checked.ty(a) != self.checked.ty(b) {
            return None;
        }
        let Type::Opaque(opaque) = self.checked.ty(a) else { return None };
        Some(only(match opaque {
            Opaque::Format => Range { min: 1, max: 64 }.times(TRAVERSAL),
            Opaque::Url => {
                let size = self.sizes.get(&b.id).copied().unwrap_or(Range::fixed(1));
                Range { min: 1, max: size.max }.times(TRAVERSAL)
            }
            _ => Range::fixed(1),
        }))
    }

    /// What cel-go knows of the language itself.
    fn standard(&mut self, call: &Call<'_, 'e>, args: Range) -> Estimate {
        let arg = |at: usize| call.args.get(at);
        match call.overload {
            "string_format" => only(self.of(call.target).times(TRAVERSAL).add(args)),
            "string_to_bytes" => {
                let size = self.of(arg(0));
                let result = Range { min: size.min, max: size.max.saturating_mul(4) };
                (size.times(TRAVERSAL).add(args), Some(result))
            }
            "bytes_to_string" => {
                let size = self.of(arg(0));
                (size.times(TRAVERSAL).add(args), Some(Range { min: size.min / 4, max: size.max }))
            }
            "strings_quote" => {
                let size = self.of(arg(0));
                let max = size.max.saturating_mul(2).saturating_add(2);
                (size.times(TRAVERSAL).add(args), Some(Range { min: size.min.saturating_add(2), max }))
            }
            "starts_with_string" | "ends_with_string" => only(self.of(arg(0)).times(TRAVERSAL).add(args)),
            "in_list" => only(self.of(arg(1)).add(args)),
            "matches_string" => {
                let text = self.of(call.target).add(Range::fixed(1)).times(TRAVERSAL);
                let regex = self.of(arg(0)).times(REGEX);
                only(text.multiply(regex).add(args))
            }
            "contains_string" => {
                let (text, part) = (self.of(call.target).times(TRAVERSAL), self.of(arg(0)).times(TRAVERSAL));
                only(text.multiply(part).add(args))
            }
            "logical_or" | "logical_and" => {
                // The left may be enough.
                only(Range { min: call.costs.first().map_or(0, |left| left.min), max: args.max })
            }
            "conditional" => self.conditional(call),
            "add_string" | "add_bytes" | "add_list" => self.concatenation(call, args),
            id if compared(id) => {
                let (a, b) = (self.of(arg(0)), self.of(arg(1)));
                let max = a.max.min(b.max);
                only(Range { min: u64::from(max > 0), max }.times(TRAVERSAL).add(args))
            }
            _ => only(args.add(Range::fixed(1))),
        }
    }

    fn conditional(&mut self, call: &Call<'_, 'e>) -> Estimate {
        let ([_, yes, no], [condition, if_true, if_false]) = (call.args, call.costs) else {
            return only(Range::default());
        };
        let size = self.size_or_unknown(yes).union(self.size_or_unknown(no));
        if let Some(entries) = Entries::union(self.entries(yes), self.entries(no)) {
            self.entries.insert(call.expr.id, entries);
        }
        (condition.add(if_true.union(*if_false)), Some(size))
    }

    fn concatenation(&mut self, call: &Call<'_, 'e>, args: Range) -> Estimate {
        let [a, b] = call.args else { return only(args) };
        let size = self.size_or_unknown(a).add(self.size_or_unknown(b));
        if let Some(entries) = Entries::union(self.entries(a), self.entries(b)) {
            self.entries.insert(call.expr.id, entries);
        }
        let cost = if call.overload == "add_list" { Range::fixed(1) } else { size.times(TRAVERSAL) };
        (cost.add(args), Some(size))
    }
}

struct Call<'c, 'e> {
    expr: &'e Expr,
    function: &'c str,
    overload: &'c str,
    target: Option<&'e Expr>,
    args: &'e [Expr],
    costs: &'c [Range],
}

/// Overloads that compare values whose size counts.
pub(crate) fn compared(overload: &str) -> bool {
    matches!(
        overload,
        "equals"
            | "not_equals"
            | "less_string"
            | "less_equals_string"
            | "greater_string"
            | "greater_equals_string"
            | "less_bytes"
            | "less_equals_bytes"
            | "greater_bytes"
            | "greater_equals_bytes"
    )
}

/// A literal number; negative ones are none at all.
fn int(expr: Option<&Expr>) -> Option<u64> {
    match &expr?.kind {
        Kind::Literal(Literal::Int(value)) => Some(u64::try_from(*value).unwrap_or(0)),
        _ => None,
    }
}

/// The size of a text in which all of one size are replaced by ones of another.
fn replaced(of: Range, from: Range, to: Range) -> Range {
    let divide = |size: u64, by: u64| times(size, 1.0 / by as f64);
    let (max_count, max_kept) = match from.min {
        0 => (of.max.saturating_add(1), of.max),
        _ if to.max <= from.min => (0, of.max),
        least => (divide(of.max, least), 0),
    };
    let (min_count, min_kept) = match from.max {
        0 => (of.min.saturating_add(1), of.min),
        most if most <= to.min => (0, of.min),
        most => (divide(of.min, most), 0),
    };
    let count = Range { min: min_count, max: max_count };
    count.multiply(to).add(Range { min: min_kept, max: max_kept })
}
