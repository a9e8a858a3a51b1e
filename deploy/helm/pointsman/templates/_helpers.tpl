{{/* The picker's name: of the Deployment, its Service and what belongs to it. As in the llm-d charts. */}}
{{- define "pointsman.name" -}}
{{ .Release.Name | lower | trim | trunc 40 | trimSuffix "-" }}-epp
{{- end }}

{{- define "pointsman.selectorLabels" -}}
app.kubernetes.io/name: pointsman
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: picker
{{- end }}

{{- define "pointsman.labels" -}}
{{ include "pointsman.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "pointsman.image" -}}
{{- with .Values.router.epp.image -}}
{{ with .registry }}{{ . }}/{{ end }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* "true" if one of the replicas leads and the others wait. */}}
{{- define "pointsman.leaderElection" -}}
{{- if eq (toString (index .Values.router.epp.flags "ha-enable-leader-election")) "true" }}true{{ end }}
{{- end }}

{{/* The least number of replicas that there are. */}}
{{- define "pointsman.replicas" -}}
{{- if .Values.router.epp.autoscaling.enabled }}{{ .Values.router.epp.autoscaling.minReplicas }}{{ else }}{{ .Values.router.epp.replicas }}{{ end }}
{{- end }}

{{/* The pools, as a list under `pools`; empty where pods are chosen by label alone. Each with what it inherits. */}}
{{- define "pointsman.pools" -}}
{{- $pools := list }}
{{- $router := .Values.router }}
{{- if $router.pools }}
{{- range $router.pools }}
{{- $pools = append $pools (mergeOverwrite (dict "create" true "failureMode" "FailOpen" "service" (printf "%s-epp" .name)) (deepCopy .)) }}
{{- end }}
{{- else if or $router.inferencePool.create $router.inferencePool.name }}
{{- $pools = append $pools (dict
  "name" ($router.inferencePool.name | default .Release.Name)
  "create" $router.inferencePool.create
  "failureMode" $router.inferencePool.failureMode
  "service" (include "pointsman.name" .)
  "modelServers" $router.modelServers
  "inferenceObjectives" $router.inferenceObjectives) }}
{{- end }}
{{- toYaml (dict "pools" $pools) }}
{{- end }}

{{/* The Services by which gateways reach the picker. */}}
{{- define "pointsman.services" -}}
{{- $names := list }}
{{- range (include "pointsman.pools" . | fromYaml).pools }}{{ $names = append $names .service }}{{ end }}
{{- toYaml (dict "names" ($names | default (list (include "pointsman.name" .)))) }}
{{- end }}

{{/* The name of the Secret with the certificate; empty where the picker makes its own, or has none. */}}
{{- define "pointsman.certificate" -}}
{{- with .Values.router.epp.tls -}}
{{- if eq .mode "certManager" }}{{ .secretName | default (printf "%s-tls" (include "pointsman.name" $)) }}
{{- else if eq .mode "secret" }}{{ required "router.epp.tls.secretName: with mode: secret, name the Secret that has tls.crt and tls.key" .secretName }}
{{- end }}
{{- end }}
{{- end }}

{{/* The configuration files, under `files`. */}}
{{- define "pointsman.configFiles" -}}
{{- $epp := .Values.router.epp }}
{{- $name := $epp.pluginsConfigFile }}
{{- $files := deepCopy $epp.pluginsCustomConfig }}
{{- if $epp.pluginsConfig }}
{{- if hasKey $files $name }}{{ fail (printf "router.epp.pluginsConfig and router.epp.pluginsCustomConfig both have %s; keep one" $name) }}{{ end }}
{{- $_ := set $files $name (toYaml $epp.pluginsConfig) }}
{{- end }}
{{- $source := $epp.metricsDataSource }}
{{- $plain := and (eq $source.scheme "http") (eq $source.path "/metrics") }}
{{- $shortCut := or $epp.parsers (not $plain) (ne .Values.router.modelServers.type "vllm") }}
{{- if and $shortCut (not (hasKey $files $name)) }}
{{- $_ := set $files $name (include "pointsman.defaultConfig" .) }}
{{- else if and (not $files) (ne $name "default-plugins.yaml") }}
{{- fail (printf "router.epp.pluginsConfigFile: there is no %s; put it into router.epp.pluginsCustomConfig" $name) }}
{{- else if and $files (not (hasKey $files $name)) (not .Values.router.pools) }}
{{- fail (printf "router.epp.pluginsConfigFile: there is no %s in router.epp.pluginsCustomConfig; name one of: %s" $name (keys $files | sortAlpha | join ", ")) }}
{{- end }}
{{- range .Values.router.pools }}
{{- if and .pluginsConfigFile (not (hasKey $files .pluginsConfigFile)) }}{{ fail (printf "router.pools: %s: pluginsConfigFile: there is no %s in router.epp.pluginsCustomConfig" .name .pluginsConfigFile) }}{{ end }}
{{- end }}
{{- toYaml (dict "files" $files) }}
{{- end }}

{{/* The default profile, with what the values say of model servers and requests. */}}
{{- define "pointsman.defaultConfig" -}}
{{- $epp := .Values.router.epp -}}
{{- $source := $epp.metricsDataSource -}}
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: gpu-health-filter
- type: gpu-memory-filter
- type: work-scorer
- type: speed-scorer
- type: gpu-memory-scorer
- type: gpu-cotenant-scorer
- type: metrics-data-source
  parameters:
    scheme: {{ $source.scheme }}
    path: {{ $source.path }}
    insecureSkipVerify: {{ $source.insecureSkipVerify }}
- type: core-metrics-extractor
  parameters:
    defaultEngine: {{ .Values.router.modelServers.type }}
{{- range $epp.parsers }}
- type: {{ . }}
{{- end }}
dataLayer:
  sources:
  - pluginRef: metrics-data-source
    extractors:
    - pluginRef: core-metrics-extractor
{{- with $epp.parsers }}
requestHandler:
  parsers:
  {{- range . }}
  - pluginRef: {{ . }}
  {{- end }}
{{- end }}
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: gpu-health-filter
  - pluginRef: gpu-memory-filter
  - pluginRef: work-scorer
  - pluginRef: speed-scorer
  - {pluginRef: gpu-memory-scorer, weight: 0.5}
  - {pluginRef: gpu-cotenant-scorer, weight: 0.5}
{{- end }}

{{- define "pointsman.probe" -}}
{{- printf "%s-probe" (.Release.Name | lower | trim | trunc 40 | trimSuffix "-") -}}
{{- end }}
