//! GitHub's expressions, as far as a test job needs them: names, literals,
//! `==`, `!=`, `!`, `&&`, `||`, parentheses, the status functions and `hashFiles()`.

use anyhow::{Context, bail};

/// What expressions can see.
pub trait Lookup {
    /// The value of `steps.x.outputs.y`, given as its parts.
    fn value(&self, path: &[String]) -> Option<String>;
    /// The value of `success()`, `failure()`, `cancelled()` or `always()`.
    fn status(&self, function: &str) -> Option<bool>;
    /// The value of `hashFiles(...)`.
    fn hash_files(&self, patterns: &[String]) -> anyhow::Result<String> {
        bail!("`hashFiles` of {patterns:?} has no workspace here")
    }
}

/// Replaces every `${{ ... }}` in `text`.
pub fn interpolate(text: &str, lookup: &dyn Lookup) -> anyhow::Result<String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${{") {
        result.push_str(&rest[..start]);
        let inner = &rest[start + 3..];
        let end = inner.find("}}").context("an expression has no `}}`")?;
        result.push_str(&evaluate(&inner[..end], lookup)?);
        rest = &inner[end + 2..];
    }
    result.push_str(rest);
    Ok(result)
}

/// Evaluates an `if:`. Without a status function in it, `success()` is meant
/// too.
pub fn condition(text: Option<&str>, lookup: &dyn Lookup) -> anyhow::Result<bool> {
    let text = text.unwrap_or("success()").trim();
    let text = text
        .strip_prefix("${{")
        .and_then(|inner| inner.strip_suffix("}}"))
        .unwrap_or(text);
    let names_status = ["success()", "failure()", "always()", "cancelled()"]
        .iter()
        .any(|function| text.contains(function));
    if !names_status && lookup.status("success") != Some(true) {
        return Ok(false);
    }
    Ok(truth(&evaluate(text, lookup)?))
}

fn evaluate(text: &str, lookup: &dyn Lookup) -> anyhow::Result<String> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        position: 0,
        lookup,
    };
    let value = parser
        .either()
        .with_context(|| format!("in `{}`", text.trim()))?;
    if parser.position < parser.tokens.len() {
        bail!("`{}` has more than one expression", text.trim());
    }
    Ok(value)
}

fn truth(value: &str) -> bool {
    !matches!(value, "" | "false" | "0" | "null")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Text(String),
    Name(String),
    Sign(&'static str),
}

fn tokens(text: &str) -> anyhow::Result<Vec<Token>> {
    const SIGNS: [&str; 11] = ["==", "!=", "&&", "||", "!", "(", ")", "[", "]", ".", ","];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    'next: while !rest.is_empty() {
        for sign in SIGNS {
            if let Some(after) = rest.strip_prefix(sign) {
                tokens.push(Token::Sign(sign));
                rest = after.trim_start();
                continue 'next;
            }
        }
        if let Some(quoted) = rest.strip_prefix('\'') {
            let end = quoted.find('\'').context("a text has no closing quote")?;
            tokens.push(Token::Text(quoted[..end].to_owned()));
            rest = quoted[end + 1..].trim_start();
            continue;
        }
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
            .unwrap_or(rest.len());
        if end == 0 {
            bail!("unexpected text: {rest}");
        }
        tokens.push(Token::Name(rest[..end].to_owned()));
        rest = rest[end..].trim_start();
    }
    Ok(tokens)
}

struct Parser<'a> {
    tokens: Vec<Token>,
    position: usize,
    lookup: &'a dyn Lookup,
}

impl Parser<'_> {
    fn accept(&mut self, sign: &'static str) -> bool {
        let found = self.tokens.get(self.position) == Some(&Token::Sign(sign));
        self.position += usize::from(found);
        found
    }

    fn either(&mut self) -> anyhow::Result<String> {
        let mut left = self.both()?;
        while self.accept("||") {
            let right = self.both()?;
            left = if truth(&left) { left } else { right };
        }
        Ok(left)
    }

    fn both(&mut self) -> anyhow::Result<String> {
        let mut left = self.comparison()?;
        while self.accept("&&") {
            let right = self.comparison()?;
            left = if truth(&left) { right } else { left };
        }
        Ok(left)
    }

    fn comparison(&mut self) -> anyhow::Result<String> {
        let left = self.primary()?;
        if self.accept("==") {
            return Ok(left.eq_ignore_ascii_case(&self.primary()?).to_string());
        }
        if self.accept("!=") {
            return Ok((!left.eq_ignore_ascii_case(&self.primary()?)).to_string());
        }
        Ok(left)
    }

    fn primary(&mut self) -> anyhow::Result<String> {
        if self.accept("!") {
            return Ok((!truth(&self.primary()?)).to_string());
        }
        if self.accept("(") {
            let value = self.either()?;
            anyhow::ensure!(self.accept(")"), "a parenthesis is not closed");
            return Ok(value);
        }
        let token = self.tokens.get(self.position).cloned();
        self.position += 1;
        match token {
            Some(Token::Text(text)) => Ok(text),
            Some(Token::Name(name)) => self.name(name),
            Some(Token::Sign(sign)) => bail!("unexpected `{sign}`"),
            None => bail!("the expression ends too early"),
        }
    }

    fn arguments(&mut self) -> anyhow::Result<Vec<String>> {
        let mut arguments = vec![self.either()?];
        while self.accept(",") {
            arguments.push(self.either()?);
        }
        anyhow::ensure!(self.accept(")"), "a parenthesis is not closed");
        Ok(arguments)
    }

    fn name(&mut self, name: String) -> anyhow::Result<String> {
        if self.accept("(") {
            if name.eq_ignore_ascii_case("hashFiles") {
                let patterns = self.arguments()?;
                return self.lookup.hash_files(&patterns);
            }
            anyhow::ensure!(self.accept(")"), "`{name}` takes no arguments");
            return match self.lookup.status(&name) {
                Some(value) => Ok(value.to_string()),
                None => bail!("unknown function `{name}`"),
            };
        }
        if matches!(name.as_str(), "true" | "false" | "null")
            || name.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Ok(name);
        }
        let mut path = vec![name];
        loop {
            let bracket = if self.accept(".") {
                false
            } else if self.accept("[") {
                true
            } else {
                break;
            };
            match self.tokens.get(self.position).cloned() {
                Some(Token::Name(part)) if !bracket => path.push(part),
                Some(Token::Text(part)) if bracket => path.push(part),
                _ => bail!("a part of the name is missing after `{}`", path.join(".")),
            }
            self.position += 1;
            anyhow::ensure!(!bracket || self.accept("]"), "a bracket is not closed");
        }
        // What does not exist is the empty text, as on GitHub.
        Ok(self.lookup.value(&path).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed {
        success: bool,
    }

    impl Lookup for Fixed {
        fn value(&self, path: &[String]) -> Option<String> {
            match path.join(".").as_str() {
                "steps.a.outputs.x" => Some("one".to_owned()),
                "job.services.redis.ports.6379" => Some("6379".to_owned()),
                _ => None,
            }
        }

        fn status(&self, function: &str) -> Option<bool> {
            match function {
                "success" => Some(self.success),
                "failure" => Some(!self.success),
                "always" => Some(true),
                "cancelled" => Some(false),
                _ => None,
            }
        }
    }

    #[test]
    fn text_is_interpolated() {
        let lookup = Fixed { success: true };
        let text =
            "a ${{ steps.a.outputs.x }} b ${{ job.services.redis.ports['6379'] }}${{nope.x}}.";
        assert_eq!(interpolate(text, &lookup).unwrap(), "a one b 6379.");
        assert!(interpolate("${{ x", &lookup).is_err());
        assert!(interpolate("${{ x y }}", &lookup).is_err());
    }

    #[test]
    fn conditions_mean_success_unless_they_name_a_status() {
        let good = Fixed { success: true };
        let bad = Fixed { success: false };
        for (text, on_success, on_failure) in [
            (None, true, false),
            (Some("always()"), true, true),
            (Some("${{ failure() }}"), false, true),
            (Some("steps.a.outputs.x == 'ONE'"), true, false),
            (Some("always() && steps.a.outputs.x != 'one'"), false, false),
            (Some("!(success() || cancelled())"), false, true),
        ] {
            assert_eq!(condition(text, &good).unwrap(), on_success, "{text:?}");
            assert_eq!(condition(text, &bad).unwrap(), on_failure, "{text:?}");
        }
    }
}
