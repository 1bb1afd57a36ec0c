{{/* The Pod Security Standard "restricted", for pods and for containers. 65532 is the
     user of our images. */}}
{{- define "bulkhead.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "bulkhead.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What the pods of a Deployment have in common; takes (list $ name values). */}}
{{- define "bulkhead.placement" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $values := index . 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
nodeSelector:
  kubernetes.io/os: linux
  {{- with $values.nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A Deployment of which one replica leads. Takes (dict "root" $ "name" "values" "args"). */}}
{{- define "bulkhead.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    app.kubernetes.io/name: {{ .name }}
    {{- include "bulkhead.labels" .root | nindent 4 }}
spec:
  replicas: {{ .values.replicas }}
  selector:
    matchLabels:
      {{- include "bulkhead.selector" .name | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "bulkhead.selector" .name | nindent 8 }}
    spec:
      serviceAccountName: {{ .name }}
      {{- include "bulkhead.placement" (list .root .name .values) | trim | nindent 6 }}
      topologySpreadConstraints:
        - topologyKey: kubernetes.io/hostname
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "bulkhead.selector" .name | nindent 14 }}
      securityContext:
        {{- include "bulkhead.podSecurityContext" .root | nindent 8 }}
      containers:
        - name: {{ .name }}
          image: {{ include "bulkhead.image" (list .root .values.image) }}
          imagePullPolicy: {{ .values.image.pullPolicy }}
          args:
            {{- range concat .args .values.extraArgs }}
            - {{ . | quote }}
            {{- end }}
          ports:
            - {name: metrics, containerPort: 8443}
            - {name: health, containerPort: 8081}
          startupProbe:
            httpGet: {path: /healthz, port: health}
            periodSeconds: 1
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /healthz, port: health}
            periodSeconds: 10
            timeoutSeconds: 5
          readinessProbe:
            httpGet: {path: /readyz, port: health}
            periodSeconds: 2
            timeoutSeconds: 5
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          securityContext:
            {{- include "bulkhead.containerSecurityContext" .root | nindent 12 }}
{{- if gt (int .values.replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    app.kubernetes.io/name: {{ .name }}
    {{- include "bulkhead.labels" .root | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "bulkhead.selector" .name | nindent 6 }}
{{- end }}
{{- end }}

{{/* The Service that metrics are scraped through. Takes (dict "root" $ "name" "port"). */}}
{{- define "bulkhead.metricsService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}-metrics
  namespace: {{ .root.Release.Namespace }}
  labels:
    app.kubernetes.io/name: {{ .name }}
    {{- include "bulkhead.labels" .root | nindent 4 }}
spec:
  # Headless: each replica has metrics of its own.
  clusterIP: None
  selector:
    {{- include "bulkhead.selector" .name | nindent 4 }}
  ports:
    - {name: metrics, port: {{ .port }}, targetPort: metrics}
{{- end }}
