{{- define "switchboard.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Room for "-internal". */}}
{{- define "switchboard.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- $name := include "switchboard.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 54 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 54 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "switchboard.selectorLabels" -}}
app.kubernetes.io/name: {{ include "switchboard.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: node
{{- end }}

{{/* Of everything but pods: takes a dict of "root" and "component". */}}
{{- define "switchboard.labels" -}}
{{- $root := .root -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "switchboard.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: switchboard
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end }}

{{- define "switchboard.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "switchboard.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "switchboard.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* A duration of the configuration (250ms, 1m30s) in whole seconds, rounded up. */}}
{{- define "switchboard.seconds" -}}
{{- $unit := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 }}
{{- $total := 0 }}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" . -1 }}
{{- $total = add $total (mul (regexFind "^[0-9]+" . | atoi) (get $unit (regexFind "[a-z]+$" .))) }}
{{- end }}
{{- div (add $total 999) 1000 }}
{{- end }}

{{/* What outlasts preStop and the drain. The defaults are the binary's, where the values name none. */}}
{{- define "switchboard.gracePeriod" -}}
{{- $drain := default dict .Values.config.drain }}
{{- $delay := include "switchboard.seconds" (default "0s" $drain.delay) | int }}
{{- $window := include "switchboard.seconds" (default "10s" $drain.window) | int }}
{{- add .Values.drain.preStopSeconds $delay $window .Values.drain.graceSeconds }}
{{- end }}

{{/* The secrets that are given: JSON of {name, variable, secret, key}, each. */}}
{{- define "switchboard.secrets" -}}
{{- $variables := dict
  "jwtSecret" "SWITCHBOARD_JWT_SECRET"
  "previousJwtSecrets" "SWITCHBOARD_AUTH__JWT__PREVIOUS_SECRETS"
  "registrySecrets" "SWITCHBOARD_REGISTRY__SECRETS"
  "jwtKeys" "SWITCHBOARD_AUTH__JWT__KEYS"
  "apiKey" "SWITCHBOARD_API_KEY"
  "apiKeys" "SWITCHBOARD_API__KEYS"
  "backends" "SWITCHBOARD_BACKENDS"
  "redisUrl" "SWITCHBOARD_REDIS_URL"
  "redisUrls" "SWITCHBOARD_REDIS__URLS"
  "redisSentinelPassword" "SWITCHBOARD_REDIS__SENTINEL_PASSWORD"
  "sessionSecrets" "SWITCHBOARD_AUTH__SESSION__SECRETS"
  "adminUiPasswordHash" "SWITCHBOARD_ADMIN_UI__PASSWORD_HASH"
  "sessionRedisUrl" "SWITCHBOARD_AUTH__SESSION__REDIS_URL"
  "emitterRedisUrl" "SWITCHBOARD_INGRESS__EMITTER__REDIS_URL"
  "pythonRedisUrl" "SWITCHBOARD_INGRESS__PYTHON__REDIS_URL"
  "tracesHeaders" "SWITCHBOARD_TRACES__HEADERS" }}
{{- $default := default (include "switchboard.fullname" .) .Values.secrets.name }}
{{- $used := list }}
{{- range $name := keys $variables | sortAlpha }}
{{- $one := get $.Values.secrets $name }}
{{- if $one.key }}
{{- if not (and (eq $name "redisUrl") $.Values.secrets.redisUrls.key) }}
{{- $used = append $used (dict "file" (kebabcase $name) "variable" (get $variables $name) "secret" (default $default $one.name) "key" $one.key) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $used }}
{{- end }}
