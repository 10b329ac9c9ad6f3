{{/*
A value of the configuration as TOML. Not Helm's toToml: values arrive as floats, and it writes 100 as 100.0, which no key
that counts takes. A JSON string is a TOML string too.
*/}}
{{- define "switchboard.tomlValue" -}}
{{- if kindIs "string" . }}
{{- toJson . }}
{{- else if kindIs "bool" . }}
{{- . }}
{{- else if kindIs "slice" . }}
{{- $items := list }}
{{- range . }}
{{- $items = append $items (include "switchboard.tomlValue" .) }}
{{- end }}
{{- printf "[%s]" (join ", " $items) }}
{{- else if kindIs "map" . }}
{{- $fields := list }}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{- $fields = append $fields (printf "%s = %s" $key (include "switchboard.tomlValue" $value)) }}
{{- end }}
{{- end }}
{{- printf "{ %s }" (join ", " $fields) }}
{{- else }}
{{- int64 . }}
{{- end }}
{{- end }}

{{/* A table: takes a dict of "path" (empty for the root) and "table". Values before tables, as TOML wants it. */}}
{{- define "switchboard.tomlTable" -}}
{{- $path := .path }}
{{- range $key, $value := .table }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $key }} = {{ include "switchboard.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := .table }}
{{- if kindIs "map" $value }}
{{- $inner := $key }}
{{- if $path }}{{ $inner = printf "%s.%s" $path $key }}{{ end }}

[{{ $inner }}]
{{- include "switchboard.tomlTable" (dict "path" $inner "table" $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The whole file. */}}
{{- define "switchboard.config" -}}
{{- include "switchboard.tomlTable" (dict "path" "" "table" .Values.config) | trim }}
{{- end }}
