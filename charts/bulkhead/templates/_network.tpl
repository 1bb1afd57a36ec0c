{{/* Flags about the networks that tenants reach, as a JSON list. */}}
{{- define "bulkhead.networkArgs" -}}
{{- with .Values.tenantNetwork -}}
{{- list
  (printf "--denied-networks=%s" (join "," .denied))
  (printf "--allowed-networks=%s" (join "," .allowed))
  (printf "--pod-networks=%s" (join "," .pods))
| toJson -}}
{{- end }}
{{- end }}
