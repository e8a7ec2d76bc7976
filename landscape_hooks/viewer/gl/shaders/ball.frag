in vec2 v_place;
flat in vec4 f_fill;
flat in vec4 f_ring;
flat in float f_radius;
uniform float opacity;
out vec4 color;

void main() {
    float away = length(v_place);
    float cover = clamp(f_radius + 0.5 - away, 0.0, 1.0);
    if (cover * opacity < 0.004) discard;
    float inner = f_radius * 0.74;
    vec2 p = v_place / max(inner, 1e-6);
    float z = sqrt(max(1.0 - dot(p, p), 0.0));
    float light = 0.72 + 0.36 * max(dot(vec3(p, z), normalize(vec3(-0.45, 0.65, 0.75))), 0.0);
    vec3 body = min(f_fill.rgb * light, vec3(1.0));
    vec3 mixed = mix(body, f_ring.rgb, clamp(away - inner + 0.5, 0.0, 1.0));
    float alpha = cover * opacity;
    color = vec4(mixed * alpha, alpha);
}
