//! A prefix in front of every tool's name (`server.tool_prefix`), for clients in which tool names of several servers meet.
//!
//! In: the table of tools, names that a client calls, answers. Out: the same with the prefix, also where one tool's text or an
//! answer's `next` names another tool. Calls without the prefix are served, too: our own command line makes them.

use rmcp::model::{CallToolResult, ContentBlock, Tool};
use serde_json::Value;

use super::tools;

/// The names as a server shows them.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// The tools as they are listed.
    pub(super) fn listed(&self) -> Vec<Tool> {
        let tools = tools::listed().iter().cloned();
        tools
            .map(|mut tool| {
                if !self.prefix.is_empty() {
                    tool.name = format!("{}{}", self.prefix, tool.name).into();
                    tool.description = tool.description.map(|text| self.text(&text).into());
                }
                tool
            })
            .collect()
    }

    /// The name in our table of what a client calls.
    pub(super) fn bare<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(self.prefix.as_str()).unwrap_or(name)
    }

    /// A text of ours with the tools' shown names.
    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if self.prefix.is_empty() {
            return text;
        }
        // Names without an underscore are ordinary words of a text.
        for tool in tools::listed()
            .iter()
            .filter(|tool| tool.name.contains('_'))
        {
            let shown = format!("{}{}", self.prefix, tool.name);
            text = text.replace(tool.name.as_ref(), &shown);
        }
        text
    }

    /// An answer whose `next` names the tools as they are shown. Nothing else of it is ours to change.
    pub(super) fn answer(&self, mut result: CallToolResult) -> CallToolResult {
        if self.prefix.is_empty() {
            return result;
        }
        let next = result.structured_content.as_ref();
        let next = next.and_then(|answer| answer["next"].as_str());
        let Some((old, new)) = next.map(|next| (next.to_owned(), self.text(next))) else {
            return result;
        };
        if let Some(answer) = result.structured_content.as_mut() {
            answer["next"] = Value::String(new.clone());
        }
        // The text is the same JSON in the order made for reading: its field is replaced as it stands there.
        let field = |text: &str| format!("\"next\":{}", Value::from(text));
        let text = result.content.first().and_then(ContentBlock::as_text);
        let text = text.map(|text| text.text.replacen(&field(&old), &field(&new), 1));
        if let Some(text) = text {
            result.content = vec![ContentBlock::text(text)];
        }
        result
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use rmcp::model::{CallToolResult, ContentBlock};
    use serde_json::json;

    use super::Names;

    #[test]
    fn names_and_what_names_them_carry_the_prefix() {
        let names = Names::new("dev_");
        let tools = names.listed();
        assert!(tools.iter().all(|tool| tool.name.starts_with("dev_")));
        let execute = &tools[0];
        let about = execute.description.as_ref().unwrap();
        assert!(about.contains("dev_get_task_status"), "{about}");
        assert!(!about.contains("dev_dev_"), "{about}");
        assert_eq!(names.bare("dev_ping"), "ping");
        assert_eq!(names.bare("ping"), "ping");
        assert_eq!(Names::new("").listed(), *crate::mcp::tools::listed());
    }

    #[test]
    fn only_the_next_call_of_an_answer_is_changed() {
        let answer = json!({"output": "call get_task_status", "next": "Call get_task_status."});
        let mut result = CallToolResult::structured(answer.clone());
        result.content = vec![ContentBlock::text(answer.to_string())];
        let changed = Names::new("x_").answer(result);
        let wanted = json!({"output": "call get_task_status", "next": "Call x_get_task_status."});
        assert_eq!(changed.structured_content.unwrap(), wanted);
        let text = &changed.content[0].as_text().unwrap().text;
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(text).unwrap(),
            wanted
        );
    }
}
