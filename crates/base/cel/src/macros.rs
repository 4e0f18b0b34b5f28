//! Macros, expanded as cel-go expands them: the cost of an expression is that of its expansion.

use crate::{
    ast::{ACCUMULATOR, Expr, Fold, Kind, Literal},
    error::Issue,
    parse::{Parser, Result},
};

/// The variable of comprehensions that go over nothing.
const UNUSED: &str = "#unused";

/// A call `operand.function(args)`.
pub(crate) fn member(
    parser: &mut Parser<'_>,
    at: usize,
    operand: Expr,
    function: String,
    mut args: Vec<Expr>,
) -> Result<Expr> {
    let mut make = Maker { parser, at };
    let bind = matches!(&operand.kind, Kind::Ident(name) if name == "cel") && function == "bind";
    match (function.as_str(), args.len()) {
        ("all", 2 | 3) => make.quantifier(operand, args, Quantifier::All),
        ("exists", 2 | 3) => make.quantifier(operand, args, Quantifier::Exists),
        ("exists_one", 2) | ("existsOne", 2 | 3) => make.quantifier(operand, args, Quantifier::One),
        ("map", 2 | 3) => make.map(operand, args, 1),
        ("filter", 2) => {
            let item = args[0].clone();
            args.insert(2, item);
            make.map(operand, args, 1)
        }
        ("transformList", 3 | 4) => make.map(operand, args, 2),
        ("transformMap", 3 | 4) => make.transform_map(operand, args, false),
        ("transformMapEntry", 3 | 4) => make.transform_map(operand, args, true),
        ("optMap", 2) => make.opt_map(operand, args, false),
        ("optFlatMap", 2) => make.opt_map(operand, args, true),
        ("sortBy", 2) => make.sort_by(operand, args),
        ("bind", 3) if bind => {
            let [name, init, result] = take(args)?;
            let name = make.name(&name)?;
            make.bind(name, init, result)
        }
        _ => make.parser.node(at, Kind::Call { function, target: Some(Box::new(operand)), args }),
    }
}

/// A call `function(args)`.
pub(crate) fn global(
    parser: &mut Parser<'_>,
    at: usize,
    function: String,
    mut args: Vec<Expr>,
) -> Result<Expr> {
    if function == "has" && args.len() == 1 {
        let argument = args.remove(0);
        return match argument.kind {
            Kind::Select { operand, field, test_only: false } => {
                parser.node(at, Kind::Select { operand, field, test_only: true })
            }
            _ => {
                Err(Issue { message: "invalid argument to has() macro".to_owned(), offset: argument.offset })
            }
        };
    }
    parser.node(at, Kind::Call { function, target: None, args })
}

/// The arguments, of which there are as many as the caller has seen to.
fn take<const N: usize>(args: Vec<Expr>) -> Result<[Expr; N]> {
    let offset = args.first().map_or(0, |arg| arg.offset);
    args.try_into().map_err(|_| Issue { message: "wrong number of arguments".to_owned(), offset })
}

#[derive(Clone, Copy, PartialEq)]
enum Quantifier {
    All,
    Exists,
    One,
}

/// Makes nodes at the place of the macro.
struct Maker<'p, 's> {
    parser: &'p mut Parser<'s>,
    at: usize,
}

impl Maker<'_, '_> {
    fn node(&mut self, kind: Kind) -> Result<Expr> {
        self.parser.node(self.at, kind)
    }

    fn literal(&mut self, literal: Literal) -> Result<Expr> {
        self.node(Kind::Literal(literal))
    }

    fn ident(&mut self, name: &str) -> Result<Expr> {
        self.node(Kind::Ident(name.to_owned()))
    }

    fn accumulator(&mut self) -> Result<Expr> {
        self.ident(ACCUMULATOR)
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Result<Expr> {
        self.parser.call(self.at, function, args)
    }

    fn member(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Result<Expr> {
        self.node(Kind::Call { function: function.to_owned(), target: Some(Box::new(target)), args })
    }

    fn name(&self, expr: &Expr) -> Result<String> {
        match &expr.kind {
            Kind::Ident(name) if !name.starts_with('.') => Ok(name.clone()),
            _ => Err(Issue { message: "argument must be a simple name".to_owned(), offset: expr.offset }),
        }
    }

    /// The iteration variables: one, or an index or key and a value.
    fn variables(&self, args: &[Expr], count: usize) -> Result<(String, Option<String>)> {
        let first = self.name(&args[0])?;
        if count == 1 {
            return Ok((first, None));
        }
        let second = self.name(&args[1])?;
        if first == second {
            let message = format!("duplicate variable name: {first}");
            return Err(Issue { message, offset: args[1].offset });
        }
        Ok((first, Some(second)))
    }

    fn quantifier(&mut self, range: Expr, mut args: Vec<Expr>, quantifier: Quantifier) -> Result<Expr> {
        let (var, var2) = self.variables(&args, args.len() - 1)?;
        let predicate = args.remove(args.len() - 1);
        let init = match quantifier {
            Quantifier::All => Literal::Bool(true),
            Quantifier::Exists => Literal::Bool(false),
            Quantifier::One => Literal::Int(0),
        };
        let init = self.literal(init)?;
        let cond = match quantifier {
            Quantifier::All => {
                let accu = self.accumulator()?;
                self.call("@not_strictly_false", vec![accu])?
            }
            Quantifier::Exists => {
                let accu = self.accumulator()?;
                let not = self.call("!_", vec![accu])?;
                self.call("@not_strictly_false", vec![not])?
            }
            Quantifier::One => self.literal(Literal::Bool(true))?,
        };
        let accu = self.accumulator()?;
        let step = match quantifier {
            Quantifier::All => self.call("_&&_", vec![accu, predicate])?,
            Quantifier::Exists => self.call("_||_", vec![accu, predicate])?,
            Quantifier::One => {
                let one = self.literal(Literal::Int(1))?;
                let more = self.call("_+_", vec![accu, one])?;
                let same = self.accumulator()?;
                self.call("_?_:_", vec![predicate, more, same])?
            }
        };
        let mut result = self.accumulator()?;
        if quantifier == Quantifier::One {
            let one = self.literal(Literal::Int(1))?;
            result = self.call("_==_", vec![result, one])?;
        }
        self.fold(Fold { range, var, var2, accu: ACCUMULATOR.to_owned(), init, cond, step, result })
    }

    /// `map`, `filter` and `transformList`: variables, perhaps a filter, and what becomes an element.
    fn map(&mut self, range: Expr, mut args: Vec<Expr>, variables: usize) -> Result<Expr> {
        let (var, var2) = self.variables(&args, variables)?;
        let mut rest = args.split_off(variables);
        let value = rest.pop().ok_or_else(|| too_few(self.at))?;
        let init = self.node(Kind::List { items: Vec::new() })?;
        let accu = self.accumulator()?;
        let item = self.node(Kind::List { items: vec![(value, false)] })?;
        let step = self.call("_+_", vec![accu, item])?;
        self.collect(range, var, var2, init, step, rest.pop())
    }

    fn transform_map(&mut self, range: Expr, mut args: Vec<Expr>, entry: bool) -> Result<Expr> {
        let (var, var2) = self.variables(&args, 2)?;
        let mut rest = args.split_off(2);
        let value = rest.pop().ok_or_else(|| too_few(self.at))?;
        let init = self.node(Kind::Map { entries: Vec::new() })?;
        let accu = self.accumulator()?;
        let step = if entry {
            self.call("cel.@mapInsert", vec![accu, value])?
        } else {
            let key = self.ident(&var)?;
            self.call("cel.@mapInsert", vec![accu, key, value])?
        };
        self.collect(range, var, var2, init, step, rest.pop())
    }

    fn collect(
        &mut self,
        range: Expr,
        var: String,
        var2: Option<String>,
        init: Expr,
        mut step: Expr,
        filter: Option<Expr>,
    ) -> Result<Expr> {
        let cond = self.literal(Literal::Bool(true))?;
        if let Some(filter) = filter {
            let same = self.accumulator()?;
            step = self.call("_?_:_", vec![filter, step, same])?;
        }
        let result = self.accumulator()?;
        self.fold(Fold { range, var, var2, accu: ACCUMULATOR.to_owned(), init, cond, step, result })
    }

    fn bind(&mut self, name: String, init: Expr, result: Expr) -> Result<Expr> {
        let range = self.node(Kind::List { items: Vec::new() })?;
        let cond = self.literal(Literal::Bool(false))?;
        let step = self.ident(&name)?;
        self.fold(Fold { range, var: UNUSED.to_owned(), var2: None, accu: name, init, cond, step, result })
    }

    fn opt_map(&mut self, target: Expr, args: Vec<Expr>, flat: bool) -> Result<Expr> {
        let [name, result] = take(args)?;
        let name = self.name(&name)?;
        let present = self.member("hasValue", target.clone(), Vec::new())?;
        let value = self.member("value", target, Vec::new())?;
        let mut mapped = self.bind(name, value, result)?;
        if !flat {
            let optional = self.ident("optional")?;
            mapped = self.member("of", optional, vec![mapped])?;
        }
        let optional = self.ident("optional")?;
        let none = self.member("none", optional, Vec::new())?;
        self.call("_?_:_", vec![present, mapped, none])
    }

    fn sort_by(&mut self, target: Expr, args: Vec<Expr>) -> Result<Expr> {
        const INPUT: &str = "@__sortBy_input__";
        let input = self.ident(INPUT)?;
        let keys = self.map(input, args, 1)?;
        let input = self.ident(INPUT)?;
        let sorted = self.member("@sortByAssociatedKeys", input, vec![keys])?;
        self.bind(INPUT.to_owned(), target, sorted)
    }

    fn fold(&mut self, fold: Fold) -> Result<Expr> {
        if [Some(&fold.var), fold.var2.as_ref()].contains(&Some(&fold.accu)) {
            let message = "iteration variable overwrites accumulator variable".to_owned();
            return Err(Issue { message, offset: self.at });
        }
        self.node(Kind::Fold(Box::new(fold)))
    }
}

fn too_few(offset: usize) -> Issue {
    Issue { message: "wrong number of arguments".to_owned(), offset }
}
