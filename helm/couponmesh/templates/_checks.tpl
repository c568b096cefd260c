{{/* Refuses what would be taken without a word and not be meant: (list root "member" settings). */}}
{{- define "couponmesh.check" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $settings := index . 2 -}}
{{- $set := list -}}
{{- range include "couponmesh.env" (list $root $name) | fromYamlArray -}}
  {{- $set = append $set .name -}}
{{- end -}}
{{- range $settings.extraEnv -}}
  {{- /* Kubernetes takes the last of two variables of one name; the service does not tell case apart. */ -}}
  {{- if has (upper .name) $set -}}
    {{- fail (printf "%s: extraEnv: %s is set already, by the chart or above" $name .name) -}}
  {{- end -}}
  {{- $set = append $set (upper .name) -}}
{{- end -}}
{{- if and $root.Values.bundled.enabled (ne (int $root.Values.bus.replicas) 1) -}}
  {{- fail "bus.replicas: the bundled NATS is one server, which keeps one copy" -}}
{{- end -}}
{{- if $root.Values.bundled.enabled -}}
  {{- if ne "couponmesh" (include "couponmesh.configured" (list $settings "bus.prefix" "couponmesh")) -}}
    {{- fail (printf "%s: bus.prefix: the logins of the bundled NATS are for the prefix couponmesh" $name) -}}
  {{- end -}}
  {{- if lt 8 (include "couponmesh.configured" (list $settings "messaging.partitions" "8") | int) -}}
    {{- fail (printf "%s: messaging.partitions: the logins of the bundled NATS are for 8 partitions at the most" $name) -}}
  {{- end -}}
{{- end -}}
{{- if $root.Values.istio.enabled -}}
  {{- $istio := $root.Values.istio -}}
  {{- if eq $name "member" -}}
    {{- $deadline := include "couponmesh.configured" (list $settings "member.withdrawal.deadline" "3s") -}}
    {{- $timeout := $istio.breaker.timeout -}}
    {{- if not (lt (include "couponmesh.milliseconds" $timeout | int64) (include "couponmesh.milliseconds" $deadline | int64)) -}}
      {{- fail (printf "breaker.timeout (%s) must be below member.withdrawal.deadline (%s): a call that member gives up first is no failure to the breaker" $timeout $deadline) -}}
    {{- end -}}
  {{- end -}}
  {{- if eq $name "mypage" -}}
    {{- $wait := include "couponmesh.configured" (list $settings "mypage.wait" "5s") -}}
    {{- $timeout := $istio.ingress.retries.readTimeout -}}
    {{- if not (lt (include "couponmesh.milliseconds" $wait | int64) (include "couponmesh.milliseconds" $timeout | int64)) -}}
      {{- fail (printf "ingress.retries.readTimeout (%s) must be above mypage.wait (%s): pods would be ejected for callers who wait for a page" $timeout $wait) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/* What a service is configured with, by a variable of extraEnv or in config: (list settings "mypage.wait" "its default"). */}}
{{- define "couponmesh.configured" -}}
{{- $key := index . 1 -}}
{{- $value := index . 2 -}}
{{- $section := "" -}}
{{- range splitList "\n" (index . 0).config -}}
  {{- $line := trim . -}}
  {{- if hasPrefix "[" $line -}}
    {{- $section = printf "%s." (regexFind "[a-z_.]+" $line) -}}
  {{- else -}}
    {{- $parts := regexSplit "\\s*=\\s*" $line 2 -}}
    {{- if eq (printf "%s%s" $section (first $parts)) $key -}}
      {{- $value = regexFind "[^\"']+" (last $parts) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range (index . 0).extraEnv -}}
  {{- if eq (upper .name) (printf "COUPONMESH__%s" ($key | replace "." "__" | upper)) -}}
    {{- $value = .value | default $value -}}
  {{- end -}}
{{- end -}}
{{- $value -}}
{{- end }}

{{/* A duration like "2s", "500ms" or "1m 30s" in milliseconds. */}}
{{- define "couponmesh.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "sec" 1000 "second" 1000 "seconds" 1000 "m" 60000 "min" 60000 "minute" 60000 "minutes" 60000 "h" 3600000 "hour" 3600000 "hours" 3600000 -}}
{{- $sum := 0.0 -}}
{{- $parts := regexFindAll "[0-9.]+\\s*[a-z]+" . -1 -}}
{{- if not $parts -}}
  {{- fail (printf "%s is no duration like 500ms, 3s or 1m" .) -}}
{{- end -}}
{{- range $parts -}}
  {{- $unit := regexFind "[a-z]+" . -}}
  {{- if not (hasKey $units $unit) -}}
    {{- fail (printf "%s is no duration like 500ms, 3s or 1m" .) -}}
  {{- end -}}
  {{- $sum = addf $sum (mulf (regexFind "[0-9.]+" . | float64) (get $units $unit)) -}}
{{- end -}}
{{- floor $sum | int64 -}}
{{- end }}
