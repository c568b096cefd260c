{{/* The labels of everything. */}}
{{- define "couponmesh.labels" -}}
app.kubernetes.io/name: couponmesh
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: couponmesh
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What a service's pods are found by: its name. */}}
{{- define "couponmesh.selector" -}}
app: {{ . }}
{{- end }}

{{/* A service's settings, as YAML: the defaults with its own above: (list root "member"). */}}
{{- define "couponmesh.service" -}}
{{- $root := index . 0 -}}
{{- $own := get $root.Values.services (index . 1) | default dict -}}
{{- mergeOverwrite (deepCopy $root.Values.defaults) $own | toYaml -}}
{{- end }}

{{/* The Secret with a service's addresses: (list root "member"). */}}
{{- define "couponmesh.secret" -}}
{{- $settings := include "couponmesh.service" . | fromYaml -}}
{{- $settings.secretName | default (printf "couponmesh-%s" (index . 1)) -}}
{{- end }}

{{- define "couponmesh.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Pod Security: restricted. */}}
{{- define "couponmesh.podSecurity" -}}
runAsNonRoot: true
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "couponmesh.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* The labels of a pod beside its selector. None that a new version of the chart changes: it would restart what needs no restart. */}}
{{- define "couponmesh.podLabels" -}}
app.kubernetes.io/name: couponmesh
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: couponmesh
sidecar.istio.io/inject: {{ .Values.istio.enabled | quote }}
{{- with .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What Istio is told of a pod. A native sidecar outlives the app. Where there are none, the sidecar stays as long as the app may
     need it: to sleep, to drain, and to finish what runs beside the calls. */}}
{{- define "couponmesh.sidecar" -}}
{{- if .Values.istio.enabled -}}
sidecar.istio.io/nativeSidecar: "true"
{{- end }}
{{- end }}

{{- define "couponmesh.sidecarConfig" -}}
terminationDrainDuration: {{ add .Values.rollout.preStopSeconds .Values.rollout.drainSeconds 5 }}s
{{- end }}

{{/* A password that stays over upgrades: (list root "secret" "key"). It begins with a letter: NATS reads what begins with a
     digit as a number. */}}
{{- define "couponmesh.password" -}}
{{- $root := index . 0 -}}
{{- $secret := lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- $old := dig "data" (index . 2) "" ($secret | default dict) -}}
{{- if $old }}{{ b64dec $old }}{{ else }}p{{ randAlphaNum 31 }}{{ end -}}
{{- end }}
