{{/* Labels of every object of the release. */}}
{{- define "bulkhead.labels" -}}
app.kubernetes.io/part-of: bulkhead
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Labels that select a component's pods; takes the component's name. */}}
{{- define "bulkhead.selector" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: bulkhead
{{- end }}

{{/* Whole image name of one of our programs; takes (list $ .Values.x.image). */}}
{{- define "bulkhead.image" -}}
{{- $chart := (index . 0).Chart -}}
{{- with index . 1 -}}
{{ with .registry }}{{ . }}/{{ end }}{{ .repository }}:{{ .tag | default $chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}
