{{/* A component's ServiceAccount and what it may do: exactly the rules of
     files/rbac/<name>.yaml, which come from the component's own code and are checked
     against it by the tests. Takes (dict "root" $ "name"). */}}
{{- define "bulkhead.access" -}}
{{- $rules := .root.Files.Get (printf "files/rbac/%s.yaml" .name) | fromYaml }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    app.kubernetes.io/name: {{ .name }}
    {{- include "bulkhead.labels" .root | nindent 4 }}
{{- with $rules.clusterRules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: bulkhead-{{ $.name }}
  labels:
    app.kubernetes.io/name: {{ $.name }}
    {{- include "bulkhead.labels" $.root | nindent 4 }}
rules:
  {{- toYaml . | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: bulkhead-{{ $.name }}
  labels:
    app.kubernetes.io/name: {{ $.name }}
    {{- include "bulkhead.labels" $.root | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: bulkhead-{{ $.name }}}
subjects:
  - {kind: ServiceAccount, name: {{ $.name }}, namespace: {{ $.root.Release.Namespace }}}
{{- end }}
{{- with $rules.namespaceRules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $.name }}
  namespace: {{ $.root.Release.Namespace }}
  labels:
    app.kubernetes.io/name: {{ $.name }}
    {{- include "bulkhead.labels" $.root | nindent 4 }}
rules:
  {{- toYaml . | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $.name }}
  namespace: {{ $.root.Release.Namespace }}
  labels:
    app.kubernetes.io/name: {{ $.name }}
    {{- include "bulkhead.labels" $.root | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $.name }}}
subjects:
  - {kind: ServiceAccount, name: {{ $.name }}, namespace: {{ $.root.Release.Namespace }}}
{{- end }}
{{- end }}
