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
runtimeValues:
  # In its connection managers, where Istio has no field for it.
  envoy.reloadable_features.max_request_headers_size_kb: {{ .Values.istio.mesh.maxRequestHeadersKb | quote }}
{{- end }}

{{/* A password that stays over upgrades: (list root "secret" "key"). It begins with a letter: NATS reads what begins with a
     digit as a number. */}}
{{- define "couponmesh.password" -}}
{{- $root := index . 0 -}}
{{- $secret := lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- $old := dig "data" (index . 2) "" ($secret | default dict) -}}
{{- if $old }}{{ b64dec $old }}{{ else }}p{{ randAlphaNum 31 }}{{ end -}}
{{- end }}

{{/* An address to listen on: (list root port). */}}
{{- define "couponmesh.listen" -}}
{{- $address := (index . 0).Values.grpc.listenAddress -}}
{{ contains ":" $address | ternary (printf "[%s]" $address) $address }}:{{ index . 1 }}
{{- end }}

{{/* The variables of a service that the chart itself sets, as YAML: (list root "member"). */}}
{{- define "couponmesh.env" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $secret := include "couponmesh.secret" . -}}
- { name: COUPONMESH_CONFIG, value: /etc/couponmesh/couponmesh.toml }
- { name: COUPONMESH__TELEMETRY__LOG_FORMAT, value: json }
- { name: COUPONMESH__GRPC__DRAIN_TIMEOUT, value: {{ $root.Values.rollout.drainSeconds }}s }
{{- with $root.Values.grpc.healthPort }}
- { name: COUPONMESH__GRPC__HEALTH_LISTEN, value: {{ include "couponmesh.listen" (list $root .) | quote }} }
{{- end }}
{{- with $root.Values.telemetry.otlpEndpoint }}
- { name: COUPONMESH__TELEMETRY__OTLP_ENDPOINT, value: {{ . | quote }} }
{{- end }}
{{- if eq $name "member" }}
# The name, so that the mesh's rules for it apply.
- { name: COUPONMESH__MEMBER__COUPON_ADDRESS, value: "http://coupon:50051" }
{{- end }}
- name: COUPONMESH__DATABASE__URL
  valueFrom: { secretKeyRef: { name: {{ $secret }}, key: database-url } }
- name: COUPONMESH__BUS__URL
  valueFrom: { secretKeyRef: { name: {{ $secret }}, key: bus-url } }
{{- /* The default is the binary's own, so that a service's config may say otherwise. */}}
{{- if ne (int $root.Values.bus.replicas) 1 }}
- { name: COUPONMESH__BUS__REPLICAS, value: {{ $root.Values.bus.replicas | quote }} }
{{- end }}
{{- if or $root.Values.bundled.enabled $root.Values.insecure.database }}
- { name: COUPONMESH__DATABASE__INSECURE, value: "true" }
{{- end }}
{{- if or $root.Values.bundled.enabled $root.Values.insecure.bus }}
- { name: COUPONMESH__BUS__INSECURE, value: "true" }
{{- end }}
{{- end }}
