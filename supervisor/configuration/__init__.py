"""The configuration file: read it, check it, compare it with what runs, write it back.

Pure: `problems` (what is wrong, and where), `document` (text to values with lines; `toml_text`, `json_text`,
`yaml_text`), `keys` (the table of everything that can be set), `schema` (the table as a JSON Schema), `reading`
(values to settings), `clients` (files of MCP clients), `references` (secrets by reference), `plan` (the smallest change
from one configuration to another), `edits` (a text with one server more or less).

With I/O: `files` (read with care, write whole or not at all), `lookup` (where secrets are), `config_file` (changes that
are kept), `watch` (has the file changed?), `commands` (`mcp-bulkhead check` and `import`).

Nothing here is imported unless there is a configuration file: the port has to answer soon.
"""
