//! Finds circles between the modules of a crate, from the text of its sources.
//!
//! A module refers to another where its production code names a path into it: `crate::a::b`,
//! `super::a`, `self::a`, a group `use crate::{a::X, b}`, a child's name, or a name that a `use`
//! has brought in. A name that a module only re-exports or imports counts as one of the module
//! that defines it.
//!
//! **The rule.** The modules in one folder must form no circle, where each module stands for all
//! that lies below it. References between a module and its own descendants do not count in
//! either direction: a parent is made of its children, and what the parent's own file defines is
//! common to them.
//!
//! This is no compiler: macros are not expanded, `use a::*` refers to `a` alone, and methods are
//! not followed. It reads what `rustfmt` would format and compiles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module's path within its crate, empty for the crate's root.
type ModulePath = Vec<String>;

/// One file of a crate.
struct Module {
    /// The tokens of its production code.
    tokens: Vec<String>,
    /// Names that its `use` declarations bring in, with the paths that they stand for.
    imports: BTreeMap<String, Vec<String>>,
    /// All paths that its code names, each split at `::`.
    paths: Vec<Vec<String>>,
}

/// The modules of a crate, by their paths.
pub struct Modules(BTreeMap<ModulePath, Module>);

/// Modules of one folder, each of which refers to the next through others of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Circle {
    /// The names of the modules, as `crate::a::{b, c}`.
    pub name: String,
    /// The references between them, as `b -> c (crate::a::c::Item)`, one for each pair.
    pub references: Vec<String>,
}

impl Modules {
    /// Reads the sources of a library, or of a program that has no library.
    ///
    /// # Panics
    /// A file cannot be read, or a declared module has no file.
    pub fn read(src: &Path) -> Self {
        let root = ["lib.rs", "main.rs"].map(|name| src.join(name));
        let root = root.into_iter().find(|path| path.is_file());
        let root = root.unwrap_or_else(|| panic!("{}: no lib.rs or main.rs", src.display()));
        let mut modules = BTreeMap::new();
        let mut left = vec![(ModulePath::new(), root)];
        while let Some((path, file)) = left.pop() {
            let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
            let module = Module::parse(&text);
            let folder = path.iter().fold(src.to_owned(), |at, name| at.join(name));
            for name in module.declared() {
                let files = [format!("{name}.rs"), format!("{name}/mod.rs")];
                let found = files.map(|file| folder.join(file));
                let found = found.into_iter().find(|file| file.is_file());
                let found = found.unwrap_or_else(|| panic!("{file:?}: no file of mod {name}"));
                left.push(([path.as_slice(), &[name]].concat(), found));
            }
            modules.insert(path, module);
        }
        Modules(modules)
    }

    /// The circles in all folders of the crate.
    pub fn circles(&self) -> Vec<Circle> {
        // Folder -> (child, other child) -> the path that refers from one to the other.
        let mut folders: BTreeMap<&[String], BTreeMap<(&str, &str), String>> = BTreeMap::new();
        for (from, module) in &self.0 {
            for path in &module.paths {
                let Some(to) = self.resolve(from, path) else {
                    continue;
                };
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                let (Some(a), Some(b)) = (from.get(common), self.child(&to, common)) else {
                    continue;
                };
                let pairs = folders.entry(&from[..common]).or_default();
                pairs.entry((a, b)).or_insert_with(|| path.join("::"));
            }
        }
        let circles = folders.iter().flat_map(|(folder, pairs)| {
            let groups = strongly_connected(pairs.keys().copied()).into_iter();
            groups.map(|group| {
                let at = ["crate"]
                    .into_iter()
                    .chain(folder.iter().map(String::as_str));
                let names: Vec<&str> = group.iter().copied().collect();
                let within = pairs
                    .iter()
                    .filter(|((a, b), _)| group.contains(a) && group.contains(b));
                Circle {
                    name: format!(
                        "{}::{{{}}}",
                        at.collect::<Vec<_>>().join("::"),
                        names.join(", ")
                    ),
                    references: within
                        .map(|((a, b), path)| format!("{a} -> {b} ({path})"))
                        .collect(),
                }
            })
        });
        circles.collect()
    }

    /// The name at `depth` of a module's path, as it stands in this crate.
    fn child(&self, path: &[String], depth: usize) -> Option<&str> {
        let (known, _) = self.0.get_key_value(path)?;
        known.get(depth).map(String::as_str)
    }

    /// The module that defines what a path names, seen from the module `from`.
    fn resolve(&self, from: &[String], path: &[String]) -> Option<ModulePath> {
        self.resolve_within(from, path, 0)
    }

    /// The same, after so many imports have been followed.
    fn resolve_within(&self, from: &[String], path: &[String], depth: usize) -> Option<ModulePath> {
        let mut rest = path.iter();
        let mut at = from.to_vec();
        match path.first()?.as_str() {
            "crate" => {
                at.clear();
                rest.next();
            }
            "self" => drop(rest.next()),
            "super" => {}
            // A child's name, or an imported one; anything else is another crate's.
            name => {
                let child = [from, &[name.to_owned()]].concat();
                if !self.0.contains_key(&child) && !self.0[from].imports.contains_key(name) {
                    return None;
                }
            }
        }
        while let Some(name) = rest.next() {
            if name == "super" {
                at.pop()?;
                continue;
            }
            let child = [at.as_slice(), std::slice::from_ref(name)].concat();
            if self.0.contains_key(&child) {
                at = child;
                continue;
            }
            let Some(import) = self.0[&at].imports.get(name) else {
                // An item of this module.
                return Some(at);
            };
            // Two imports of one name, for different targets, may refer to each other.
            if depth > 8 || (at == from && import.as_slice() == path) {
                return Some(at);
            }
            let whole: Vec<String> = import.iter().chain(rest).cloned().collect();
            return self.resolve_within(&at, &whole, depth + 1);
        }
        Some(at)
    }
}

impl Module {
    fn parse(text: &str) -> Self {
        let tokens = without_tests(tokens(text));
        let mut module = Module {
            tokens,
            imports: BTreeMap::new(),
            paths: Vec::new(),
        };
        let mut at = 0;
        while at < module.tokens.len() {
            // `impl X + use<'a>` is a bound and no declaration.
            let is_bound = module.tokens.get(at + 1).is_some_and(|next| next == "<");
            if module.tokens[at] == "use" && !is_bound {
                let mut uses = Vec::new();
                at = use_tree(&module.tokens, at + 1, &[], &mut uses);
                for (name, path) in uses {
                    module.imports.insert(name, path.clone());
                    module.paths.push(path);
                }
            } else {
                let (path, next) = plain_path(&module.tokens, at);
                if path.len() > 1 {
                    module.paths.push(path);
                }
                at = next;
            }
        }
        module
    }

    /// The modules that this one declares to lie in files of their own.
    fn declared(&self) -> Vec<String> {
        let triples = self.tokens.windows(3);
        let declarations = triples.filter(|t| t[0] == "mod" && t[2] == ";");
        declarations.map(|t| t[1].clone()).collect()
    }
}

/// Reads a `use` tree that begins at `at`; gives the place behind it. Each leaf adds the name that
/// it brings in and its whole path.
fn use_tree(
    tokens: &[String],
    mut at: usize,
    prefix: &[String],
    uses: &mut Vec<(String, Vec<String>)>,
) -> usize {
    let mut path = prefix.to_vec();
    while at < tokens.len() {
        match tokens[at].as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens[at] != "}" {
                    at = use_tree(tokens, at, &path, uses);
                    if tokens[at] == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            // All names of the module, which are not known here.
            "*" => {
                uses.push((format!("* of {}", path.join("::")), path));
                return at + 1;
            }
            "as" => {
                uses.push((tokens[at + 1].clone(), path));
                return at + 2;
            }
            "," | "}" | ";" => break,
            // `a::{self}` is `a`.
            "self" if !path.is_empty() => at += 1,
            name => {
                path.push(name.to_owned());
                at += 1;
            }
        }
    }
    if let Some(name) = path.last() {
        uses.push((name.clone(), path.clone()));
    }
    at
}

/// The path that begins at a token, empty where none does, and the place behind it.
fn plain_path(tokens: &[String], at: usize) -> (Vec<String>, usize) {
    let is_name = |token: &String| token.starts_with(|c: char| c.is_alphabetic() || c == '_');
    if !is_name(&tokens[at]) {
        return (Vec::new(), at + 1);
    }
    let (mut path, mut next) = (vec![tokens[at].clone()], at + 1);
    while tokens.get(next).is_some_and(|token| token == "::")
        && tokens.get(next + 1).is_some_and(is_name)
    {
        path.push(tokens[next + 1].clone());
        next += 2;
    }
    (path, next)
}

/// Splits Rust source into names, `::` and single signs; comments, literals and lifetimes go.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let starts = |at: usize, word: &str| {
        word.chars()
            .enumerate()
            .all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut depth = 0;
            loop {
                if starts(at, "/*") {
                    (depth, at) = (depth + 1, at + 2);
                } else if starts(at, "*/") {
                    (depth, at) = (depth - 1, at + 2);
                } else {
                    at += 1;
                }
                if depth == 0 || at >= chars.len() {
                    break;
                }
            }
        } else if c == '"' {
            at = behind_string(&chars, at);
        } else if c == '\'' {
            // A character, or a lifetime, which has no second quote.
            if chars.get(at + 1) == Some(&'\\') {
                at += 3;
                while chars.get(at).is_some_and(|c| *c != '\'') {
                    at += 1;
                }
                at += 1;
            } else if chars.get(at + 2) == Some(&'\'') {
                at += 3;
            } else {
                at += 1;
                while chars.get(at).is_some_and(|c| is_word(*c)) {
                    at += 1;
                }
            }
        } else if is_word(c) {
            let start = at;
            while chars.get(at).is_some_and(|c| is_word(*c)) {
                at += 1;
            }
            let word: String = chars[start..at].iter().collect();
            let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
            let is_raw = matches!(word.as_str(), "r" | "br" | "cr");
            if is_raw && chars.get(at + hashes) == Some(&'"') {
                let end: String = ["\"", &"#".repeat(hashes)].concat();
                at += hashes + 1;
                while at < chars.len() && !starts(at, &end) {
                    at += 1;
                }
                at += end.len();
            } else if matches!(word.as_str(), "b" | "c") && chars.get(at) == Some(&'"') {
                at = behind_string(&chars, at);
            } else {
                out.push(word);
            }
        } else if starts(at, "::") {
            out.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                out.push(c.to_string());
            }
            at += 1;
        }
    }
    out
}

/// The place behind a string literal whose opening quote stands at `at`.
fn behind_string(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while chars.get(at).is_some_and(|c| *c != '"') {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Leaves out each item that stands behind `#[cfg(test)]` or `#[cfg(all(test, ..))]`.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let attribute = tokens[at..].iter().take(7).map(String::as_str);
        let attribute: Vec<&str> = attribute.collect();
        let is_test = attribute.starts_with(&["#", "[", "cfg", "(", "test", ")", "]"])
            || attribute.starts_with(&["#", "[", "cfg", "(", "all", "(", "test"]);
        if !is_test {
            out.push(tokens[at].clone());
            at += 1;
            continue;
        }
        // To the end of the item: its semicolon, or the brace that closes it.
        let mut depth = 0i32;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token.as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            if depth == 0 && matches!(token.as_str(), ";" | "}") {
                break;
            }
        }
    }
    out
}

/// The groups of nodes that reach each other, of two nodes or more.
fn strongly_connected<'a>(
    edges: impl Iterator<Item = (&'a str, &'a str)>,
) -> BTreeSet<BTreeSet<&'a str>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (a, b) in edges {
        next.entry(a).or_default().insert(b);
    }
    let reach = |start: &'a str| {
        let (mut reached, mut left) = (BTreeSet::new(), vec![start]);
        while let Some(node) = left.pop() {
            for &other in next.get(node).into_iter().flatten() {
                if reached.insert(other) {
                    left.push(other);
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = next.keys().map(|&n| (n, reach(n))).collect();
    let groups = reached.iter().filter(|(node, far)| far.contains(*node));
    let groups = groups.map(|(node, far)| {
        let back = far
            .iter()
            .filter(|other| reached.get(*other).is_some_and(|r| r.contains(node)));
        back.copied().collect()
    });
    groups.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// The names of the circles in a crate with these files.
    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let folder = crate::temp();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let circles = Modules::read(folder.path()).circles();
        circles.into_iter().map(|circle| circle.name).collect()
    }

    const ROOT: (&str, &str) = ("lib.rs", "mod a; mod b; mod c;");
    const EMPTY: (&str, &str) = ("c.rs", "");

    #[test]
    fn every_kind_of_path_is_a_reference() {
        for (case, back) in [
            ("absolute", "fn f() { crate::a::f() }"),
            ("relative", "use super::a::f;"),
            ("group", "use crate::{c, a::{self, f}};"),
            ("renamed", "use super::a as other;"),
            ("of all names", "use super::a::*;"),
            ("in a type", "fn f(x: &[super::a::Y]) {}"),
            ("through an import", "use crate::c; fn f() { c::f() }"),
        ] {
            let c = ("c.rs", "pub use crate::a::f;");
            let found = circles(&[ROOT, ("a.rs", "use crate::b::X;"), ("b.rs", back), c]);
            assert_eq!(found.len(), 1, "{case}: {found:?}");
        }
    }

    #[test]
    fn only_production_code_counts() {
        for (case, text) in [
            (
                "a comment",
                "// crate::a::f\n/* crate::a /* */ crate::a::f */",
            ),
            (
                "a string",
                r##"const X: &str = "\"crate::a::f"; const Y: &str = r#""crate::a::f"#;"##,
            ),
            (
                "a test",
                "#[cfg(test)]\nmod tests { use crate::a::f; fn g() { f() } }",
            ),
            ("a test's import", "#[cfg(test)]\nuse crate::a::{f, g};"),
            ("another crate", "use other::a::f; fn g() { a::f() }"),
            ("captured lifetimes", "fn f() -> impl X + use<> { { 1 } }"),
        ] {
            let found = circles(&[ROOT, ("a.rs", "use crate::b::X;"), ("b.rs", text), EMPTY]);
            assert!(found.is_empty(), "{case}: {found:?}");
        }
        // What stands behind them counts.
        let text = "#[cfg(test)]\nfn g() {}\nconst X: char = '\"'; fn f<'a>() { crate::a::f() }";
        let found = circles(&[ROOT, ("a.rs", "use crate::b::X;"), ("b.rs", text), EMPTY]);
        assert_eq!(found, ["crate::{a, b}"]);
    }

    #[test]
    fn a_parent_and_its_children_form_no_circle() {
        let a = (
            "a.rs",
            "mod one; mod two; pub struct X; fn f() { one::f() }",
        );
        let one = ("a/one.rs", "use super::X; use super::two::Y;");
        let found = circles(&[ROOT, a, one, ("a/two.rs", ""), ("b.rs", ""), EMPTY]);
        assert!(found.is_empty(), "{found:?}");
        let two = ("a/two.rs", "fn f() { crate::a::one::f() }");
        let found = circles(&[ROOT, a, one, two, ("b.rs", ""), EMPTY]);
        assert_eq!(found, ["crate::a::{one, two}"]);
    }

    #[test]
    fn a_module_stands_for_all_below_it() {
        let a = [
            ("a/mod.rs", "mod inner;"),
            ("a/inner.rs", "use crate::b::X;"),
        ];
        let b = [("b.rs", "mod inner;"), ("b/inner.rs", "use crate::c::X;")];
        let c = [("c.rs", "fn f() { super::a::inner::g() }")];
        let found = circles(&[&[ROOT][..], &a, &b, &c].concat());
        assert_eq!(found, ["crate::{a, b, c}"]);
    }

    #[test]
    fn a_name_that_the_root_exports_counts_as_its_module() {
        let root = ("lib.rs", "mod a; mod b; mod c; pub use a::X;");
        let a = ("a.rs", "pub struct X; use crate::b::Y;");
        let found = circles(&[root, a, ("b.rs", "use crate::X;"), EMPTY]);
        assert_eq!(found, ["crate::{a, b}"]);
    }
}
