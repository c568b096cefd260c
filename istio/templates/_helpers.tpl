{{/* Every RPC of the contract, for fromJson. A test compares the table with proto/.
     edge: who may call through the ingress. public and subject RPCs are let through; admin RPCs are not, until there is a way to
     tell an administrator; mesh RPCs never.
     kind: read, write or watch. A write that may have been carried out is never sent again.
     callers: the services that call it.
     breaker: the subset with a circuit breaker that it goes through. */}}
{{- define "istio.rpcs" -}}
{{ .Files.Get "files/rpcs.json" }}
{{- end }}

{{/* The labels of everything. */}}
{{- define "istio.labels" -}}
app.kubernetes.io/name: couponmesh
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: couponmesh
{{- end }}

{{/* What a service is called inside the cluster: (list root "member"). */}}
{{- define "istio.host" -}}
{{- $root := index . 0 -}}
{{ index . 1 }}.{{ $root.Release.Namespace }}.svc.{{ $root.Values.clusterDomain }}
{{- end }}

{{/* Where a route leads: (list root "member"). */}}
{{- define "istio.destination" -}}
host: {{ include "istio.host" . }}
port:
  number: 50051
{{- end }}

{{/* The principal of a service account of this namespace: (list root "member"). */}}
{{- define "istio.principal" -}}
{{- $root := index . 0 -}}
{{ $root.Values.trustDomain }}/ns/{{ $root.Release.Namespace }}/sa/{{ index . 1 }}
{{- end }}

{{/* "true" when the gateway lets an RPC through: its entry in the table. */}}
{{- define "istio.exposed" -}}
{{- if has .edge (list "public" "subject") }}true{{ end }}
{{- end }}

{{/* What may be tried again: calls that no service saw. */}}
{{- define "istio.unseen" -}}
connect-failure,refused-stream
{{- end }}

{{/* Which pods are ejected: .Values.breaker or .Values.ejection. */}}
{{- define "istio.outliers" -}}
# UNAVAILABLE, DEADLINE_EXCEEDED, timeouts, refused connections. The other count is off: it would eject for errors of our own,
# such as INTERNAL, and is 5 when left out.
consecutiveGatewayErrors: {{ .consecutiveFailures }}
consecutive5xxErrors: 0
interval: {{ .interval }}
baseEjectionTime: {{ .baseEjectionTime }}
maxEjectionPercent: {{ .maxEjectionPercent }}
{{- end }}
